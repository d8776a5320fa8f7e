/* What the device reports: the host-mapped record of a comm. */
#include <string.h>

#include "comm.h"
#include "status.h"

const char *tml_fault_text(tml_fault_code code)
{
  switch (code) {
#define TML_X(id, n, text) \
  case TML_FAULT_##id: return text;
    TML_FAULT_MAP(TML_X)
#undef TML_X
  }
  return "a fault that this version does not know";
}

int tml_comm_fault(const tml_comm *comm, tml_fault *out)
{
  const tml_record *record = comm->record;
  /* The device writes the code last, with release: what is read after it is whole. */
  uint64_t code = __atomic_load_n(&record->code, __ATOMIC_ACQUIRE);
  uint64_t aborted = __atomic_load_n(&record->aborted, __ATOMIC_ACQUIRE);
  tml_fault fault = {.size = sizeof fault, .rank = comm->rank, .peer = comm->rank, .tile = -1};
  if (code != 0) {
    fault.code = (tml_fault_code)code;
    fault.rank = (int)record->rank;
    fault.peer = (int)record->peer;
    fault.tile = (int64_t)record->tile;
    fault.expected = record->expected;
    fault.found = record->found;
    fault.waited_us = (double)record->waited_ns * 1e-3;
  } else if (aborted != 0) {
    fault.code = TML_FAULT_PEER_ABORT;
    fault.peer = (int)(aborted - 1);
  }
  if (out) *out = fault;
  return fault.code != TML_FAULT_NONE;
}

static tml_status fault_describe(const tml_fault *fault)
{
  const char *again = "destroy and recreate the comm on every rank";
  if (fault->code == TML_FAULT_PEER_ABORT)
    return tml_fail(TML_FAULT, "rank %d: rank %d raised an abort, its own fault says why; %s",
                    fault->rank, fault->peer, again);
  if (fault->code == TML_FAULT_MISMATCH)
    return tml_fail(
        TML_FAULT,
        "rank %d: rank %d launched something else (op, m, n, k, variant or order of "
        "calls), or a launch failed on one of the two (fingerprint %016llx, here %016llx); %s",
        fault->rank, fault->peer, (unsigned long long)fault->found,
        (unsigned long long)fault->expected, again);
  return tml_fail(TML_FAULT,
                  "rank %d waited %.1f ms for rank %d: %s (tile %lld, epoch %llu, found %llu); %s",
                  fault->rank, fault->waited_us * 1e-3, fault->peer, tml_fault_text(fault->code),
                  (long long)fault->tile, (unsigned long long)fault->expected,
                  (unsigned long long)fault->found, again);
}

tml_status tml_poll(tml_comm *comm, tml_fault *out)
{
  tml_fault fault;
  if (!comm) return tml_fail(TML_ARGUMENT, "tml_poll: comm is NULL");
  if (out && out->size < sizeof *out)
    return tml_fail(TML_ARGUMENT, "tml_poll: set fault.size to sizeof(tml_fault)");
  int faulty = tml_comm_fault(comm, &fault);
  if (out)
    memcpy((char *)out + sizeof out->size, (char *)&fault + sizeof out->size,
           sizeof fault - sizeof fault.size);
  if (!faulty) return TML_OK;
  if (!atomic_exchange(&comm->fault_seen, 1)) atomic_fetch_add(&comm->ctx->counters.faults, 1);
  return fault_describe(&fault);
}
