/* The main kernel of a call: blocks, herald, sender, reader, the last block. */
#include "model.h"

static int sender_block(const view *v) { return v->run->mutant == MUTANT_OWN_TILE_FIRST; }
static int reader_block(const view *v) { return !sender_block(v); }
static int inside(const view *v, int block)
{
  return v->me->at == AT_KERNEL && v->me->block[block] == INSIDE;
}
static int staging_half(const view *v, u8 epoch)
{
  return v->run->mutant == MUTANT_ONE_STAGING_BUFFER ? 0 : epoch & 1;
}
static int signal_half(const view *v, u8 epoch)
{
  return v->run->mutant == MUTANT_ONE_SIGNAL_BUFFER ? 0 : staging_half(v, epoch);
}
static int header_half(const view *v, u8 epoch)
{
  return v->run->mutant == MUTANT_ONE_HEADER_BUFFER ? 0 : epoch & 1;
}

/* ---- The order of rounds --------------------------------------------------------------------------- */

static int in_rounds(const view *v) { return call_now(v)->tiles > 1; }

/* A role's step: tile i of its first kind in round i, of its second, if it has one, in round i + 1:
   first 0, first 1, second 0, first 2, second 1, second 2. The reader does all that one round later. */
typedef struct item {
  int second, round, tile;
} item;
static item item_of(const view *v, int step, int seconds)
{
  int tiles = call_now(v)->tiles, i = step, second = 0;
  if (seconds && step > 0) {
    second = step == 2 * tiles - 1 || step % 2 == 0;
    i = step == 2 * tiles - 1 ? tiles - 1 : second ? step / 2 - 1 : (step + 1) / 2;
  }
  int turned = v->run->mutant == MUTANT_ORDER_BY_RANK && v->r % 2;
  return (item){second, i + second, turned ? tiles - 1 - i : i};
}

/* Tiles of a kind that is `delay` rounds late, in the rounds before this one. */
static int tiles_before(const view *v, int round, int delay)
{
  int tiles = call_now(v)->tiles, i = round - delay;
  return i < 0 ? 0 : i < tiles ? i : tiles;
}

/* ---- Sender: tiles that others own, and (twoshot) the finished own tiles; movers: the own shard ------ */

static int send_unit(const view *v) { return v->run->scenario->coarse ? v->run->world - 1 : 1; }
static int send_groups(const view *v) { return (v->run->world - 1) / send_unit(v); }
static int send_target(const view *v, int i)
{
  return (v->r + 1 + (call_now(v)->op == RING ? 0 : i)) % v->run->world;
}
/* A finished tile is sent by the block that has read its partials, unless that one never ran. */
static int finishes(const view *v)
{
  return call_now(v)->op == TWOSHOT && has_rows(v, v->r) && v->me->block[reader_block(v)] != GONE;
}
static item send_item(const view *v)
{
  return item_of(v, v->me->sent / 2 / send_groups(v), finishes(v));
}
static int send_second(const view *v) { return send_item(v).second; }
/* Whose rows a rank sends as number i round the ring, and receives as number i: what it has received it sends
   next. */
static int ring_sends(const view *v, int i)
{
  return (v->r + 2 * v->run->world - 1 - i) % v->run->world;
}
static int ring_receives(const view *v, int i) { return ring_sends(v, i + 1); }
static int send_steps(const view *v)
{
  int lists = call_now(v)->tiles * (finishes(v) ? 2 : 1);
  if (call_now(v)->op == COPIES) return 0;
  if (v->me->block[reader_block(v)] == GONE) { /* what waits for nothing */
    if (call_now(v)->op == RING) return 2;
    if (in_rounds(v)) lists = 2;
  }
  return 2 * send_groups(v) * lists;
}
static int send_first_target(const view *v)
{
  return v->me->sent / 2 % send_groups(v) * send_unit(v);
}
static int send_whom(const view *v)
{
  return v->run->scenario->coarse ? -1 : send_target(v, send_first_target(v));
}
static int sends_to(const view *v, int to)
{
  if (call_now(v)->op == RING) return has_rows(v, ring_sends(v, send_first_target(v)));
  if (call_now(v)->op == MOVERS) return has_rows(v, v->r);
  return send_second(v) || has_rows(v, to);
}
/* Where sends stand behind waits, nothing is sent after one that failed. */
static int send_stops(const view *v)
{
  if (!v->me->dead) return 0;
  if (call_now(v)->op == RING) return v->me->sent >= 2;
  return in_rounds(v) && v->me->sent >= 4 * send_groups(v);
}
static int send_place(const view *v)
{
  if (call_now(v)->op == RING) return place(v, call_now(v), ring_sends(v, send_first_target(v)));
  return tile_place(v, v->r, send_item(v).tile);
}

/* Steps over owners without rows. */
static void send_settle(view *v)
{
  while (!v->run->scenario->coarse && v->me->sent < send_steps(v) && !sends_to(v, send_whom(v)))
    v->me->sent += 2;
}

static void send_buffer(view *v, int to, u8 tag, u8 epoch)
{
  rank *there = rank_at(v, to);
  int half = staging_half(v, epoch), at = send_place(v);
  put_buffer(v, to, send_second(v) ? &there->result[half][at] : &there->partial[half][at], tag);
}
static void send_signal(view *v, int to, u8 epoch)
{
  rank *there = rank_at(v, to);
  int half = signal_half(v, epoch), at = send_place(v);
  if (send_second(v)) {
    if (!v->me->dead) put_word(v, to, &there->result_signal[half][at], epoch, "result signal");
  } else {
    put_word(v, to, &there->partial_signal[half][at], epoch, "partial signal");
  }
}

static int send_open(const view *v)
{
  if (!inside(v, sender_block(v)) || v->me->sent >= send_steps(v)) return 0;
  if (call_now(v)->op == RING) return v->me->seen >= v->me->sent / 2;
  item it = send_item(v); /* behind the own tiles, and the copies, of earlier rounds */
  int own = tiles_before(v, it.round + it.second, 1);
  return v->me->seen >= own + (call_now(v)->op == TWOSHOT ? tiles_before(v, it.round, 2) : 0);
}
static int send_issues(const view *v) { return send_open(v) && v->me->sent % 2 == 0; }
static int send_completes(const view *v) { return send_open(v) && v->me->sent % 2 == 1; }

static void send_each(view *v, int complete)
{
  u8 epoch = v->me->block_epoch[sender_block(v)];
  int from = send_first_target(v);
  for (int i = from; i < from + send_unit(v); ++i) {
    int to = send_target(v, i);
    if (!sends_to(v, to) || send_stops(v)) continue;
    send_buffer(v, to, complete ? epoch : (u8)(UNDER_WAY | epoch), epoch);
    if (complete != (v->run->mutant == MUTANT_SIGNAL_BEFORE_DATA)) send_signal(v, to, epoch);
  }
  ++v->me->sent;
  send_settle(v);
}
static void send_issue(view *v) { send_each(v, 0); }
static void send_complete(view *v) { send_each(v, 1); }

/* ---- Reader: shards; or partials of the own tiles, and (twoshot) finished tiles ---------------------- */

static int read_steps(const view *v)
{
  if (call_now(v)->op == RING) return v->run->world - 1;
  return call_now(v)->tiles * (call_now(v)->op == TWOSHOT ? 2 : 1);
}

static item read_item(const view *v) { return item_of(v, v->me->seen, call_now(v)->op == TWOSHOT); }
static int reads_results(const view *v) { return read_item(v).second; }
static int read_tile(const view *v) { return call_now(v)->op == RING ? 0 : read_item(v).tile; }

/* In rounds the reader's block has first sent what stands before. */
static int read_in_turn(const view *v)
{
  item it = read_item(v);
  int sends = tiles_before(v, it.round + 2, 0);
  if (!in_rounds(v) || v->me->block[sender_block(v)] == GONE) return 1;
  if (finishes(v)) sends += tiles_before(v, it.round + 1 + it.second, 1);
  return v->me->sent >= 2 * send_groups(v) * sends;
}

/* Ranks whose tiles the reader's next step takes; of a ring, whose rows. */
static u8 read_from(const view *v)
{
  u8 owners = (u8)((1 << call_now(v)->rows) - 1);
  if (call_now(v)->op == RING) return owners & (u8)(1 << ring_receives(v, v->me->seen));
  if (call_now(v)->op == COPIES || call_now(v)->op == MOVERS || reads_results(v))
    return owners & peers_of(v);
  return has_rows(v, v->r) ? peers_of(v) : 0;
}
static int read_slot(const view *v, u8 epoch)
{
  return v->run->mutant == MUTANT_SLOT_BY_EPOCH ? (epoch - 1) & 1 : call_now(v)->slot;
}
static void read_settle(view *v)
{
  while (v->me->seen < read_steps(v) && read_from(v) == 0) ++v->me->seen;
}

static u8 read_word(const view *v, int from, u8 epoch)
{
  const rank *me = v->me;
  int half = signal_half(v, epoch), at = tile_place(v, from, read_tile(v));
  if (call_now(v)->op == COPIES) return me->shard[read_slot(v, epoch)][from];
  return reads_results(v) ? me->result_signal[half][at] : me->partial_signal[half][at];
}

u8 tiles_missing(const view *v)
{
  u8 missing = 0, epoch = v->me->block_epoch[reader_block(v)];
  if (!inside(v, reader_block(v)) || v->me->seen >= read_steps(v) || !read_in_turn(v)) return 0;
  if (v->run->mutant == MUTANT_RESULT_WITHOUT_WAIT && reads_results(v)) return 0;
  if (v->run->mutant == MUTANT_RING_WITHOUT_WAIT && call_now(v)->op == RING) return 0;
  for (int p = 0; p < v->run->world; ++p)
    if ((read_from(v) >> p & 1) && !reached(v, read_word(v, p, epoch), epoch))
      missing |= (u8)(1 << p);
  return missing;
}

static int reads(const view *v)
{
  return inside(v, reader_block(v)) && v->me->seen < read_steps(v) && read_in_turn(v) &&
         tiles_missing(v) == 0;
}
static void read_all(view *v)
{
  rank *me = v->me;
  u8 from = read_from(v), epoch = me->block_epoch[reader_block(v)];
  int half = staging_half(v, epoch);
  for (int p = 0; p < v->run->world; ++p) {
    int at = tile_place(v, p, read_tile(v));
    if (!(from >> p & 1)) continue;
    if (call_now(v)->op == COPIES)
      read_buffer(v, me->slot[read_slot(v, epoch)][at], epoch, "shard", p);
    else if (reads_results(v))
      read_buffer(v, me->result[half][at], epoch, "finished tile", p);
    else
      read_buffer(v, me->partial[half][at], epoch, "partial", p);
  }
  ++me->seen;
  read_settle(v);
}

/* A wait of the reader found the abort: its tiles are worthless. */
static int read_aborts(const view *v)
{
  return v->me->abort && v->run->mutant != MUTANT_DEAF_WAIT && tiles_missing(v) != 0;
}
static void read_abort(view *v)
{
  v->me->dead = 1;
  v->me->bad = INCOMPLETE;
  v->me->seen = (u8)read_steps(v);
}

/* ---- Herald -------------------------------------------------------------------------------------- */

static void post_one(view *v, int to)
{
  rank *there = rank_at(v, to);
  u8 epoch = v->me->block_epoch[0], bit = (u8)(1 << to);
  int half = header_half(v, epoch);
  int split = v->run->mutant == MUTANT_EPOCH_BEFORE_FINGERPRINT;
  if (!split || !(v->me->posted_half & bit)) {
    put_word(v, to, &there->header_epoch[half][v->r], epoch, "header");
    v->me->posted_half |= bit;
    if (split) return;
  }
  put_buffer(v, to, &there->header_print[half][v->r], call_now(v)->print);
  v->me->posted |= bit;
}

static int posts(const view *v)
{
  return inside(v, 0) && !(v->me->posted >> v->peer & 1) &&
         (v->run->scenario->fine || v->me->posted == 0);
}
static void post(view *v)
{
  if (v->run->scenario->fine) {
    post_one(v, v->peer);
    return;
  }
  for (int p = 0; p < v->run->world; ++p)
    if (p != v->r) post_one(v, p);
}
static int post_whom(const view *v) { return v->run->scenario->fine ? v->peer : -1; }

static int header_arrived(const view *v, int p)
{
  u8 epoch = v->me->block_epoch[0];
  return reached(v, v->me->header_epoch[header_half(v, epoch)][p], epoch);
}
static int header_differs(const view *v, int p)
{
  u8 epoch = v->me->block_epoch[0];
  int half = header_half(v, epoch);
  return v->me->header_epoch[half][p] != epoch ||
         v->me->header_print[half][p] != call_now(v)->print;
}
/* A peer whose header is here and says something else, or -1. Its lane has posted, so it looks. */
static int header_wrong(const view *v)
{
  for (int p = 0; p < v->run->world; ++p)
    if ((v->me->posted >> p & 1) && header_arrived(v, p) && header_differs(v, p)) return p;
  return -1;
}

u8 headers_missing(const view *v)
{
  u8 missing = 0;
  mutant m = v->run->mutant;
  if (!inside(v, 0) || v->me->compared || v->me->posted != peers_of(v)) return 0;
  if (m == MUTANT_NOBODY_WAITS_FOR_HEADERS) return 0;
  if (m == MUTANT_EMPTY_RANK_WAITS_FOR_NO_HEADER && !has_rows(v, v->r)) return 0;
  for (int p = 0; p < v->run->world; ++p)
    if (p != v->r && !header_arrived(v, p)) missing |= (u8)(1 << p);
  return missing;
}

/* A lane that finds its peer's header right does nothing that others see: the last one stands for all. */
static int compares(const view *v)
{
  if (!inside(v, 0) || v->me->compared) return 0;
  if (header_wrong(v) >= 0) return 1;
  return v->me->posted == peers_of(v) && headers_missing(v) == 0;
}
static void compare(view *v)
{
  int wrong = header_wrong(v), cause = 0;
  v->me->compared = 1;
  if (wrong < 0) return;
  for (int p = 0; p < v->run->world; ++p)
    cause |= v->run->script[p].at[v->me->call].what != call_now(v)->what;
  if (!cause && !v->s->raised)
    fail_run(v, FALSE_ALARM, "rank %d in call %d takes the header of rank %d for another call's",
             v->r, v->me->call + 1, wrong);
  v->me->bad = INCOMPLETE;
  raise_fault(v);
}

static int compare_aborts(const view *v)
{
  return v->me->abort && v->run->mutant != MUTANT_DEAF_WAIT && headers_missing(v) != 0;
}
static void compare_abort(view *v)
{
  v->me->compared = 1;
  v->me->bad = INCOMPLETE;
}

/* ---- Blocks -------------------------------------------------------------------------------------- */

/* Two buffers suffice because of this: who begins a call finds every peer at most one call behind. */
static void look_round(view *v)
{
  for (int p = 0; p < v->run->world; ++p) {
    int ahead = v->me->call - rank_at(v, p)->call;
    if (rank_at(v, p)->stopped) continue;
    if (ahead > v->run->furthest) v->run->furthest = ahead;
    if (ahead > 1 && v->run->mutant == MUTANT_NONE)
      fail_run(v, AHEAD, "rank %d begins call %d while rank %d is in call %d", v->r,
               v->me->call + 1, p, rank_at(v, p)->call + 1);
  }
}

static void enter(view *v, int block)
{
  rank *me = v->me;
  me->block[block] = INSIDE;
  me->block_epoch[block] = (u8)(me->epoch + 1);
  if (me->abort && v->run->mutant != MUTANT_ENTRY_IGNORES_ABORT) {
    me->block[block] = GONE;
    me->reported = 1;
  } else {
    look_round(v);
  }
  if (block == sender_block(v)) send_settle(v);
  if (block == reader_block(v)) read_settle(v);
  if (me->block[block] == GONE && me->block[!block] >= LEFT) kernel_end(v);
}

/* Blocks enter at once where nothing can tell: no faults, no doubt about the epoch. */
void kernel_begin(view *v)
{
  v->me->at = AT_KERNEL;
  if (v->run->scenario->fine) return;
  enter(v, 0);
  enter(v, 1);
}

static int block_0_enters(const view *v)
{
  return v->me->at == AT_KERNEL && v->me->block[0] == OUTSIDE;
}
static int block_1_enters(const view *v)
{
  int late = v->run->scenario->one_block || v->run->mutant == MUTANT_BLOCKS_NOT_RESIDENT;
  if (late && v->me->block[0] < LEFT) return 0;
  return v->me->at == AT_KERNEL && v->me->block[1] == OUTSIDE;
}
static void block_0_enter(view *v) { enter(v, 0); }
static void block_1_enter(view *v) { enter(v, 1); }

void send_done(view *v, u8 epoch)
{
  for (int p = 0; p < v->run->world && call_now(v)->op == COPIES; ++p)
    if (p != v->r) put_word(v, p, &rank_at(v, p)->done[v->r], epoch, "done");
}

static void ends_well(view *v)
{
  rank *me = v->me;
  ++me->well;
  if (me->bad)
    fail_run(v, (property)me->bad, "rank %d ends call %d well, and its result is wrong: %s", v->r,
             me->call + 1, property_text((property)me->bad));
  for (int p = 0; p < v->run->world; ++p)
    if (v->run->script[p].at[me->call].what != call_now(v)->what)
      fail_run(v, MISMATCH, "rank %d ends call %d well; rank %d launched something else", v->r,
               me->call + 1, p);
  if (me->reported)
    fail_run(v, NOT_STICKY, "rank %d ends call %d well after it has reported a fault", v->r,
             me->call + 1);
}

static void close_call(view *v, u8 epoch)
{
  rank *me = v->me;
  if (me->abort && v->run->mutant != MUTANT_BLIND_LAST_BLOCK) {
    if (v->run->mutant != MUTANT_MUTE_LAST_BLOCK) me->reported = 1;
    if (v->run->mutant == MUTANT_ABORT_NOT_STICKY) me->abort = 0;
  } else {
    if (call_now(v)->op == COPIES && call_now(v)->keep &&
        v->run->mutant != MUTANT_DONE_BEFORE_GATHERED)
      me->left = 1;
    else if (v->run->mutant != MUTANT_DONE_BY_FIRST_BLOCK)
      send_done(v, epoch);
    ends_well(v);
  }
  if (v->run->mutant != MUTANT_EPOCH_BY_FIRST_BLOCK) me->epoch = epoch;
}

static int roles_done(const view *v, int block)
{
  const rank *me = v->me;
  if (block == 0 && (me->posted != peers_of(v) || !me->compared)) return 0;
  if (block == sender_block(v) && me->sent < send_steps(v)) return 0;
  return block != reader_block(v) || me->seen >= read_steps(v);
}

/* What a kernel has raised is under way no longer than the kernel. */
static int leaves(const view *v, int block)
{
  return inside(v, block) && roles_done(v, block) && v->me->raising == 0;
}
static void leave(view *v, int block)
{
  rank *me = v->me;
  u8 other = me->block[!block], epoch = me->block_epoch[block];
  me->block[block] = LEFT;
  if (other != LEFT && v->run->mutant == MUTANT_EPOCH_BY_FIRST_BLOCK) me->epoch = epoch;
  if (other != LEFT && v->run->mutant == MUTANT_DONE_BY_FIRST_BLOCK) send_done(v, epoch);
  if (other == LEFT) close_call(v, epoch);
  if (other >= LEFT) kernel_end(v);
}
static int block_0_leaves(const view *v)
{
  return leaves(v, 0) && (v->run->scenario->fine || leaves(v, 1));
}
static int block_1_leaves(const view *v) { return v->run->scenario->fine && leaves(v, 1); }
static void block_0_leave(view *v)
{
  leave(v, 0);
  if (!v->run->scenario->fine) leave(v, 1);
}
static void block_1_leave(view *v) { leave(v, 1); }

rule_list kernel_rules(void)
{
  static const rule rules[] = {
      {"block 0", "enters and reads the epoch", 0, 0, 0, block_0_enters, block_0_enter, NULL},
      {"block 1", "enters and reads the epoch", 0, 0, 0, block_1_enters, block_1_enter, NULL},
      {"herald", "header", 1, 0, 0, posts, post, post_whom},
      {"herald", "headers have arrived and are compared", 0, 0, 0, compares, compare, NULL},
      {"herald", "sees the abort word and leaves", 0, 0, 0, compare_aborts, compare_abort, NULL},
      {"sender", "tile on its way", 0, 0, 0, send_issues, send_issue, send_whom},
      {"sender", "tile complete, then its signal", 0, 0, 0, send_completes, send_complete,
       send_whom},
      {"reader", "signals have arrived: reads the peers' tiles", 0, 0, 0, reads, read_all, NULL},
      {"reader", "sees the abort word and leaves", 0, 0, 0, read_aborts, read_abort, NULL},
      {"block 0", "leaves", 0, 0, 0, block_0_leaves, block_0_leave, NULL},
      {"block 1", "leaves", 0, 0, 0, block_1_leaves, block_1_leave, NULL},
  };
  return (rule_list){rules, sizeof rules / sizeof *rules};
}
