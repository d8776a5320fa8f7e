/* Findings: one entry per kind, kernel and place, with the first occurrence's sentence and a
 * count. */
#include "state.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Places: the call sites of all modules of the process ------------------------------------ */
static struct {
  pthread_mutex_t lock;
  u32 count;
  struct place {
    char file[96], function[64];
    int line;
  } * at[65536]; /* by id; 0: unknown */
} places = {.lock = PTHREAD_MUTEX_INITIALIZER};

static u32 add_place(const emu_site *site)
{
  u32 i;
  for (i = 1; i <= places.count; ++i) {
    const struct place *p = places.at[i];
    if (p->line == site->line && strncmp(p->file, site->file, sizeof p->file - 1) == 0 &&
        strncmp(p->function, site->function, sizeof p->function - 1) == 0)
      return i;
  }
  if (i > 65535) return 65535;
  places.at[i] = emu_need(calloc(1, sizeof *places.at[i]));
  places.at[i]->line = site->line;
  snprintf(places.at[i]->file, sizeof places.at[i]->file, "%s", site->file);
  snprintf(places.at[i]->function, sizeof places.at[i]->function, "%s", site->function);
  places.count = i;
  return i;
}

u16 emu_site_id(emu_site *site)
{
  if (!site) return 0;
  if (site->id == 0) {
    pthread_mutex_lock(&places.lock);
    site->id = add_place(site);
    pthread_mutex_unlock(&places.lock);
  }
  return (u16)site->id;
}

const char *emu_site_text(u16 id, char *text, size_t size)
{
  const struct place *p = id ? places.at[id] : NULL;
  if (p)
    snprintf(text, size, "%s:%d (%s)", p->file, p->line, p->function);
  else
    snprintf(text, size, "the host");
  return text;
}

/* ---- Agents ---------------------------------------------------------------------------------- */
const char *emu_agent_name(const emu_machine *m, u32 agent, char *text, size_t size)
{
  u32 group = agent / EMU_GROUP, local = agent % EMU_GROUP;
  if (group >= m->block_groups) {
    snprintf(text, size, "a copy or the host");
    return text;
  }
  const emu_slot *slot = &m->slot[group];
  const emu_cta *cta = slot->cta;
  int device = (int)(group / (u32)m->config.resident);
  char block[64];
  if (cta)
    snprintf(block, sizeof block, "device %d block %u", device, cta->block);
  else
    snprintf(block, sizeof block, "an ended block of device %d", device);
  if (local < EMU_AGENT_ASYNC) {
    snprintf(text, size, "%s warp %u", block, local);
  } else if (local < EMU_AGENT_BULK_READ) {
    snprintf(text, size, "%s, the tensor cores of warpgroup %u", block, local - EMU_AGENT_TENSOR);
  } else if (local < EMU_AGENT_MBAR) {
    snprintf(text, size, "%s, a bulk store", block);
  } else if (cta && local - EMU_AGENT_MBAR < cta->mbars) {
    snprintf(text, size, "%s, a TMA load on barrier %#x", block,
             cta->mbar[local - EMU_AGENT_MBAR].at);
  } else {
    snprintf(text, size, "%s, a TMA load", block);
  }
  return text;
}

/* ---- Reports --------------------------------------------------------------------------------- */
static const char *const names[EMU_HAZARDS] = {
    "unordered shared memory",
    "overwritten under a reader",
    "missing proxy fence",
    "signal before its data",
    "missing acquire",
    "uninitialised memory",
    "out of bounds",
    "accumulator",
    "mbarrier",
    "misuse",
};

const char *emu_hazard_name(emu_hazard kind) { return kind < EMU_HAZARDS ? names[kind] : "?"; }

static emu_report *lookup(emu_machine *m, emu_hazard kind, const char *kernel, const char *file,
                          int line)
{
  for (size_t i = 0; i < m->report_count; ++i) {
    emu_report *r = &m->report[i];
    if (r->kind == kind && r->line == line && strcmp(r->kernel, kernel) == 0 &&
        strcmp(r->file, file) == 0) {
      ++r->times;
      return NULL;
    }
  }
  if (m->report_count == m->report_room) {
    m->report_room = m->report_room ? 2 * m->report_room : 16;
    m->report = emu_need(realloc(m->report, m->report_room * sizeof *m->report));
  }
  emu_report *r = &m->report[m->report_count++];
  memset(r, 0, sizeof *r);
  r->kind = kind;
  r->line = line;
  r->times = 1;
  r->kernel = emu_need(strdup(kernel));
  r->file = emu_need(strdup(file));
  return r;
}

static void fill(emu_report *r, const char *who, const char *format, va_list args)
{
  char what[512], place[160] = "", text[1024];
  vsnprintf(what, sizeof what, format, args);
  if (r->file[0]) snprintf(place, sizeof place, "%s:%d: ", r->file, r->line);
  snprintf(text, sizeof text, "%s: %s: %s%s, address %#llx: %s", emu_hazard_name(r->kind),
           r->kernel, place, who, (unsigned long long)r->address, what);
  r->text = emu_need(strdup(text));
}

static void report_thread(emu_machine *m, emu_hazard kind, const emu_cta *cta,
                          const emu_thread *thread, const emu_site *site, u64 address,
                          const char *format, va_list args)
{
  char who[160];
  emu_report *r = lookup(m, kind, cta->run->name, site ? site->file : "", site ? site->line : 0);
  if (!r) return;
  r->device = cta->device;
  r->block = cta->block;
  r->thread = thread ? thread->index : UINT32_MAX;
  r->address = address;
  if (thread) {
    snprintf(who, sizeof who, "device %d block %u thread %u (warp %u, %s)", r->device, r->block,
             r->thread, r->thread / 32, site ? site->function : "?");
  } else {
    snprintf(who, sizeof who, "device %d block %u (%s)", r->device, r->block,
             site ? site->function : "?");
  }
  fill(r, who, format, args);
}

void emu_hazard_at(emu_machine *m, emu_hazard kind, const emu_cta *cta, const emu_thread *thread,
                   emu_site *site, u64 address, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  report_thread(m, kind, cta, thread, site, address, format, args);
  va_end(args);
}

void emu_hazard_here(emu_hazard kind, u64 address, const char *format, ...)
{
  const emu_thread *self = emu_self();
  va_list args;
  va_start(args, format);
  report_thread(self->cta->m, kind, self->cta, self, self->site, address, format, args);
  va_end(args);
}

void emu_hazard_op(emu_machine *m, emu_hazard kind, const char *name, u64 address,
                   const char *format, ...)
{
  emu_report *r = lookup(m, kind, name, "", 0);
  va_list args;
  if (!r) return;
  r->device = EMU_HOST;
  r->block = r->thread = UINT32_MAX;
  r->address = address;
  va_start(args, format);
  fill(r, "an operation of the driver", format, args);
  va_end(args);
}

size_t emu_report_count(const emu_machine *m) { return m->report_count; }

const emu_report *emu_report_at(const emu_machine *m, size_t index)
{
  return index < m->report_count ? &m->report[index] : NULL;
}

void emu_report_clear(emu_machine *m)
{
  for (size_t i = 0; i < m->report_count; ++i) {
    free((void *)m->report[i].kernel);
    free((void *)m->report[i].file);
    free((void *)m->report[i].text);
  }
  free(m->report);
  m->report = NULL;
  m->report_count = m->report_room = 0;
}
