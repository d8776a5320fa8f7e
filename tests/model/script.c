/* Scripts: from "p(cc1)2" to the calls that a rank enqueues. */
#include "model.h"

typedef struct host {
  script *out;
  int world, slot; /* slot: of the next capture or eager call by copy engines */
  mutant mutant;
} host;

static int add(host *h, call c)
{
  if (h->out->count == CALLS_MAX) return 0;
  h->out->at[h->out->count++] = c;
  return 1;
}

/* One call as the host enqueues it, eagerly or into a graph. */
static int read_call(host *h, const char **text)
{
  call c = {0};
  static const op ops[] = {
      ['c'] = COPIES,  ['g'] = COPIES, ['p'] = PUSH,   ['q'] = PUSH,  ['a'] = TWOSHOT,
      ['b'] = TWOSHOT, ['r'] = RING,   ['m'] = MOVERS, ['n'] = MOVERS};
  unsigned char letter = (unsigned char)*(*text)++;
  if (letter >= sizeof ops / sizeof *ops || !ops[letter]) return 0;
  c.op = ops[letter];
  c.keep = letter == 'g' || letter == 'n';
  c.tiles = letter == 'q' || letter == 'b' ? ROUNDS : 1;
  c.rows = (u8)h->world;
  if (**text >= '0' && **text <= '0' + h->world) c.rows = (u8)(*(*text)++ - '0');
  if (c.op == COPIES) {
    c.slot = (u8)h->slot;
    h->slot ^= 1;
  }
  c.what = (u8)((c.tiles > 1) << 7 | c.op << 4 | c.rows << 1 | c.slot);
  c.print = c.what;
  if (h->mutant == MUTANT_NO_FINGERPRINT) c.print = 1;
  if (h->mutant == MUTANT_FINGERPRINT_WITHOUT_SLOT) c.print &= 0xfe;
  return add(h, c);
}

int script_read(script *out, const char *text, int world, mutant m)
{
  host h = {out, world, 0, m};
  int graph = -1; /* first call of the open graph */
  out->count = 0;
  while (*text) {
    if (*text == '(') {
      graph = out->count;
      ++text;
    } else if (*text == ')' && graph >= 0 && text[1] >= '1' && text[1] <= '9') {
      int calls = out->count - graph, replays = text[1] - '0';
      for (int i = calls; i < calls * replays; ++i)
        if (!add(&h, out->at[graph + i % calls])) return 0;
      graph = -1;
      text += 2;
    } else if (!read_call(&h, &text)) {
      return 0;
    }
  }
  return graph < 0;
}
