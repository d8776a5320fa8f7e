/* What tests ask of the log of operations and of graphs. */
#include "machine.h"

int fake_op_count(void)
{
  pthread_mutex_lock(&fake_m.lock);
  int count = fake_m.log_count;
  pthread_mutex_unlock(&fake_m.lock);
  return count;
}

static const fake_op *nth(const fake_work *work, int i)
{
  while (work && i-- > 0) work = work->next;
  return work ? &work->op : NULL;
}

const fake_op *fake_op_at(int i)
{
  pthread_mutex_lock(&fake_m.lock);
  const fake_op *op = nth(fake_m.log_head, i);
  pthread_mutex_unlock(&fake_m.lock);
  return op;
}

int fake_graph_op_count(CUgraph graph) { return ((fake_graph *)(void *)graph)->ops; }

const fake_op *fake_graph_op_at(CUgraph graph, int i)
{
  return nth(((fake_graph *)(void *)graph)->head, i);
}

int fake_before(const fake_op *a, const fake_op *b)
{
  return a != b && a->clock[a->stream] <= b->clock[a->stream];
}

int fake_find_op(int i, fake_kind kind, const char *part)
{
  int found = -1;
  pthread_mutex_lock(&fake_m.lock);
  const fake_work *work = fake_m.log_head;
  for (int at = 0; work && found < 0; work = work->next, at++)
    if (at >= i && work->op.kind == kind &&
        (!part || kind != FAKE_LAUNCH || strstr(work->op.launch.name, part)))
      found = at;
  pthread_mutex_unlock(&fake_m.lock);
  return found;
}
