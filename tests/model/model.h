/* A model of the communication contract, and what is asked of it.
 *
 * Every rank runs a script of calls in one stream order, given as text: "c" ag_gemm by copy engines,
 * "p" gemm_rs push, "a" gemm_ar twoshot, "r" gemm_rs ring, "g" ag_gemm whose gathered A the caller wants;
 * "q" and "b" are push and twoshot with more tiles than blocks, in rounds; "m" is ag_gemm by movers, "n" too,
 * with the gathered A. A digit behind it is the number of ranks that own rows ("p1": m is so small that only
 * rank 0 owns any; "p0": m = 0; none: all do).
 * "(cpc)3" is a graph captured once and replayed three times: the host picks the copy slots at the
 * capture, replays repeat them.
 *
 * The state (struct state) is what the ranks' memories hold and how far each of their roles is:
 *   - words: headers {epoch, fingerprint} by parity and source, signals by parity, shard signals by copy
 *     slot, done, abort, and the rank's own epoch, slot_last and outbox;
 *   - buffers: partials and finished tiles by parity, copy slots, the caller's input. A buffer is the tag
 *     of the call whose bytes it holds, or tag | UNDER_WAY from the issue of the copy or TMA store until
 *     the step that completes it. In between any part may have landed: nobody may read it;
 *   - user's stream: gate kernel, main kernel of two blocks, join. Copies stream: per peer data, then
 *     signal. Kernel roles: herald (headers), sender (tiles of others, then finished tiles), reader
 *     (shards, partials, finished tiles); herald and sender live in block 0, the reader in block 1; the
 *     last block to leave closes the call.
 *
 * Rounds: a rank's tiles are the same numbers 0, 1, 2 for each owner; round i sends the tiles i to their
 * owners, then adds up the own tile i - 1 (and sends it, twoshot), then copies the peers' tiles i - 2. The
 * model takes a rank's tiles one after the other, as if one block had them all: more than any order
 * inside a rank demands, and where sends stand behind waits. It cannot lock up: a tile waits only for tiles
 * that come earlier in that order, the order is the same on every rank, and all blocks are resident,
 * so the earliest unfinished tile of all ranks can always go on. Mutants: ORDER_BY_RANK,
 * BLOCKS_NOT_RESIDENT. Without rounds sender and reader are different blocks, which wait for nothing of each
 * other but the ring and the finished tiles.
 *
 * A step is one rule (rules.c, kernel.c, fault.c) of one rank; every order of steps is explored, breadth
 * first, so a counterexample is as short as can be. What one step does at once is what nobody can tell
 * apart: waiting for a word that only grows and reading behind it (a later read sees more overwriting),
 * completing a store and releasing its signal, headers to all peers in worlds without faults (a late
 * header is a late reader of it).
 *
 * Time-outs: a wait may expire early as often as the scenario says, and does when nothing else moves and
 * the scenario has faults. Without faults that is a deadlock. Abort words of a raised fault reach each
 * peer in any order, at the latest before the kernel that sent them ends.
 *
 * Not in the model: what orders memory inside a GPU (fences, proxies, mbarriers), whether copies progress
 * beside a grid that holds every SM, segments, unfused variants, chunks of a shard, finished tiles that go
 * straight into the peers' C, the pace of sends, and the early start of a kernel while its predecessor ends.
 * After an abort a block of the model leaves at once, where the kernel
 * runs out: neither waits, and neither publishes anything. A word is one atomic byte, and a store
 * that is released is seen at once; a later sight of it is a later step of its reader.
 *
 * Why two buffers suffice: no rank begins a call while a peer is two calls behind (property AHEAD; the
 * column "ahead" of the scenarios is the most that was met). So what call e + 2 overwrites, call e has
 * read everywhere. With one buffer (ONE_STAGING_BUFFER), or a rank that skips its headers
 * (EMPTY_RANK_WAITS_FOR_NO_HEADER), it breaks.
 *
 * How to read a trace: one line is one step: number, rank, its call, the role and what it does.
 * Below stand the property that failed, with what was read or missed, and where every rank is then. */
#ifndef MODEL_H
#define MODEL_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;

enum { WORLD_MAX = 4, ROUNDS = 3, PLACES = ROUNDS * WORLD_MAX, CALLS_MAX = 10 };
enum { DETAIL_BYTES = 200, UNDER_WAY = 0x80, ALL_STEPS = 0x40 /* more than a role has */ };

/* What must hold in every state. */
#define PROPERTY_MAP(X)                                \
  X(HOLDS, "every property holds")                     \
  X(DEADLOCK, "deadlock")                              \
  X(STALE, "stale read")                               \
  X(OVERWRITTEN, "overwritten read")                   \
  X(INPUT, "caller's buffer read after the call")      \
  X(MISMATCH, "mismatch not reported")                 \
  X(FALSE_ALARM, "mismatch reported without one")      \
  X(BACKWARDS, "a word went back")                     \
  X(AHEAD, "two calls ahead of a peer")                \
  X(UNPOISONED, "good signal after a fault")           \
  X(INCOMPLETE, "call ended well after a failed wait") \
  X(NOT_STICKY, "call ended well after an abort")      \
  X(UNHEARD, "a rank waits on after an abort")         \
  X(SILENT, "fault not reported")                      \
  X(TOO_LARGE, "too many states")
#define X(id, text) id,
typedef enum property { PROPERTY_MAP(X) } property;
#undef X
const char *property_text(property p);

/* Seeded mutants: name, what is changed, scenario that must catch it, property that must fail. */
#define MUTANT_MAP(X)                                                                              \
  X(NONE, "the contract", NULL, HOLDS)                                                             \
  X(EMPTY_RANK_WAITS_FOR_NO_HEADER, "a rank without rows does not wait for headers",               \
    "w2 empty ranks", OVERWRITTEN)                                                                 \
  X(NOBODY_WAITS_FOR_HEADERS, "no rank waits for headers", "w2 other m", MISMATCH)                 \
  X(NO_FINGERPRINT, "headers compare the epoch alone", "w2 other m", MISMATCH)                     \
  X(FINGERPRINT_WITHOUT_SLOT, "the fingerprint leaves out the slot", "w2 other slot", DEADLOCK)    \
  X(EPOCH_BEFORE_FINGERPRINT, "a header's epoch is stored before its fingerprint", "w2 push",      \
    FALSE_ALARM)                                                                                   \
  X(ONE_HEADER_BUFFER, "headers do not alternate", "w2 empty ranks", FALSE_ALARM)                  \
  X(ONE_STAGING_BUFFER, "staging and signals do not alternate", "w2 empty ranks", OVERWRITTEN)     \
  X(ONE_SIGNAL_BUFFER, "staging alternates, signals do not", "w3 mixed", STALE)                    \
  X(SIGNAL_BEFORE_DATA, "a tile's signal does not wait for its stores", "w2 push", STALE)          \
  X(COPY_SIGNAL_FIRST, "the signal copy goes before the data copy", "w2 odd graph", STALE)         \
  X(RESULT_WITHOUT_WAIT, "twoshot copies finished tiles without waiting", "w2 twoshot", STALE)     \
  X(RING_WITHOUT_WAIT, "a ring adds to partials without waiting for them", "w3 ring", STALE)       \
  X(EQUAL_INSTEAD_OF_AT_LEAST, "waits want equality", "w2 even graph", DEADLOCK)                   \
  X(EPOCH_BY_FIRST_BLOCK, "the first block to leave moves the epoch", "w2 push", DEADLOCK)         \
  X(DONE_BY_FIRST_BLOCK, "the first block to leave sends done", "w2 odd graph", OVERWRITTEN)       \
  X(OPEN_GATE, "the gate waits for nothing", "w2 odd graph", OVERWRITTEN)                          \
  X(GATE_ASKS_ONE_PEER, "the gate asks one peer only", "w3 same slot", OVERWRITTEN)                \
  X(SLOT_BY_EPOCH, "the kernel takes the slot from the epoch", "w2 odd graph", DEADLOCK)           \
  X(DONE_BEFORE_GATHERED, "done is sent although the slot is still copied out of",                 \
    "w2 odd gathered", OVERWRITTEN)                                                                \
  X(GATE_KEEPS_DONE, "the gate does not send the done that was left to it", "w2 odd gathered",     \
    DEADLOCK)                                                                                      \
  X(COPIES_NOT_JOINED, "copies are not joined before the call's end", "w2 even graph", INPUT)      \
  X(OWN_TILE_FIRST, "own tiles before first sends", "w2 one block resident", DEADLOCK)             \
  X(ORDER_BY_RANK, "ranks go through the rounds in orders of their own", "w2 rounds", DEADLOCK)    \
  X(BLOCKS_NOT_RESIDENT, "rounds with a block that starts when another has left", "w2 rounds",     \
    DEADLOCK)                                                                                      \
  X(OUTBOX_BEFORE_WAIT, "the gate fills the outbox before it waits", "w2 late copies", UNPOISONED) \
  X(GATE_KEEPS_ABORT, "an aborted gate lets copies go and tells nobody", "w3 late gate",           \
    OVERWRITTEN)                                                                                   \
  X(ABORT_NOT_STICKY, "the last block clears the abort word", "w2 late headers", NOT_STICKY)       \
  X(ENTRY_IGNORES_ABORT, "blocks enter a call after an abort", "w3 late push", OVERWRITTEN)        \
  X(ABORT_STAYS_HOME, "a fault raises the rank's own abort word only", "w2 late mixed", UNHEARD)   \
  X(DEAF_WAIT, "waits do not look at the abort word", "w2 late mixed", UNHEARD)                    \
  X(ENDLESS_GATE, "the gate's wait has no time-out", "w2 stop copies", DEADLOCK)                   \
  X(BLIND_LAST_BLOCK, "the last block does not look at the abort word", "w2 late mixed",           \
    INCOMPLETE)                                                                                    \
  X(MUTE_LAST_BLOCK, "the last block does not copy the abort to the record", "w2 late mixed",      \
    SILENT)
#define X(id, text, scenario, fails) MUTANT_##id,
typedef enum mutant { MUTANT_MAP(X) MUTANTS } mutant;
#undef X

typedef enum op { COPIES = 1, PUSH, TWOSHOT, RING, MOVERS } op;

typedef struct call {
  op op;
  u8 rows;  /* ranks 0 .. rows-1 own rows */
  u8 tiles; /* of each owner: 1, or ROUNDS */
  u8 slot;  /* of copy engines, as the host picked it */
  u8 keep;  /* the gathered A is copied out behind the kernel; each rank's own choice */
  u8 what;  /* identity of the call: op, rows, slot; never 0 */
  u8 print; /* fingerprint: what, unless a mutant spoils it */
} call;

typedef struct script {
  int count;
  call at[CALLS_MAX];
} script;

typedef struct scenario {
  const char *name;
  u8 world;
  const char *calls; /* script of every rank */
  const char *other; /* of the last rank, where it differs */
  u8 stops;          /* ranks that may stop for ever, each at any moment */
  u8 late;      /* waits that may expire early, each at any moment; stops or late: waits expire */
  u8 fine;      /* blocks enter and leave one by one, headers go to the peers one by one */
  u8 one_block; /* block 1 is resident only after block 0 has left */
  u8 coarse;    /* what goes to several peers goes in one step */
} scenario;

/* Where a rank is in its user's stream. */
enum { AT_GATE, AT_GATE_FAILED, AT_KERNEL, AT_JOIN, AT_GATHERED, AT_END };
/* Where a block of its kernel is. GONE: it found the abort word on entry. */
enum { OUTSIDE, INSIDE, LEFT, GONE };

/* One rank: its memory, which peers write too, and its roles. */
typedef struct rank {
  u8 header_epoch[2][WORLD_MAX], header_print[2][WORLD_MAX]; /* [parity][source] */
  u8 partial[2][PLACES], partial_signal[2][PLACES]; /* [parity][place of source; ring: shard] */
  u8 result[2][PLACES], result_signal[2][PLACES];   /* [parity][place of owner] */
  u8 slot[2][WORLD_MAX], shard[2][WORLD_MAX];       /* [slot][source] */
  u8 done[WORLD_MAX];
  u8 abort;                          /* 0, or 1 + the rank that raised it */
  u8 epoch, slot_last[2], outbox[2]; /* own words */
  u8 input;                          /* call whose input the caller's buffer holds */
  u8 call, at;                       /* user's stream */
  u8 gate_failed;                    /* the copies that are open carry poison */
  u8 copy_call, copy_step;           /* copies stream */
  u8 block[2], block_epoch[2];       /* kernel */
  u8 posted, posted_half, compared;  /* herald: masks of peers; headers compared */
  u8 sent, seen;                     /* steps of sender and reader */
  u8 dead;                           /* the reader's wait failed: publish nothing */
  u8 bad;                            /* property that this call breaks if it ends well */
  u8 raising;                        /* peers that the abort has not reached yet */
  u8 reported, well;                 /* fault shown to the host; calls that ended well */
  u8 stopped;                        /* 2: with an abort on the way */
  u8 left;                           /* a call has left its done to the gate */
} rank;
_Static_assert(sizeof(rank) % 8 == 0, "states are hashed by 8 bytes");

typedef struct state {
  u8 stops, late; /* used so far */
  u8 raised;
  u8 spare[5];
  rank rank[WORLD_MAX]; /* the world's come first: only they are stored */
} state;

/* One exploration. `failed` and `detail` are set by the step that breaks a property. */
typedef struct run {
  const scenario *scenario;
  mutant mutant;
  int world;
  int faults; /* ranks may end calls with a fault */
  int expire; /* waits expire */
  script script[WORLD_MAX];
  property failed;
  char detail[DETAIL_BYTES];
  int furthest; /* most calls that a rank was ahead of another when it began one */
  uint64_t states, steps;
  int depth;
  double seconds;
} run;

/* A rule's window on a state. */
typedef struct view {
  run *run;
  state *s;
  rank *me;
  int r;
  int peer;   /* of rules that exist once per peer */
  int forced; /* nothing else moves: waits expire */
} view;

typedef struct rule {
  const char *role, *does;
  u8 per_peer, copies; /* copies: of the copies stream, which has a call of its own */
  u8 expires;          /* a time-out, also tried when nothing else moves */
  int (*can)(const view *v);
  void (*act)(view *v);
  int (*whom)(const view *v); /* rank to name in the trace, or -1; NULL: v->peer */
} rule;
typedef struct rule_list {
  const rule *at;
  int count;
} rule_list;

/* script.c: 1 if the text is a script. */
int script_read(script *out, const char *text, int world, mutant m);

/* memory.c: the only places that touch peers' memory and that judge what is found there. */
void fail_run(view *v, property p, const char *format, ...) __attribute__((format(printf, 3, 4)));
rank *rank_at(const view *v, int r);
const call *call_now(const view *v);
int has_rows(const view *v, int r);
int place(const view *v, const call *c, int from);
int tile_place(const view *v, int from, int tile);
int reached(const view *v, u8 found, u8 expected);
void put_word(view *v, int at, u8 *word, u8 value, const char *name);
void put_buffer(view *v, int at, u8 *buffer, u8 tag);
void read_buffer(view *v, u8 tag, u8 epoch, const char *name, int from);
u8 peers_of(const view *v);

/* rules.c: the host's order, gate, copies, join. */
rule_list stream_rules(void);
void call_begin(view *v);
void send_done(view *v, u8 epoch);
void call_end(view *v);
void kernel_end(view *v);
/* kernel.c */
rule_list kernel_rules(void);
void kernel_begin(view *v);
/* What the role waits for is not there (bits of peers), and the role does wait. */
u8 gate_missing(const view *v);
u8 headers_missing(const view *v);
u8 tiles_missing(const view *v);
/* fault.c */
rule_list fault_rules(void);
void raise_fault(view *v);

/* explore.c: 1 unless a property failed; out of memory ends the program. trace: print the way there. */
int explore(run *r, const scenario *s, mutant m, int trace);

#endif
