-- Codes of the fault record, in order from 1; the runtime's TML_FAULT_MAP has their texts.
return {
  "HEADER_TIMEOUT", "SHARD_TIMEOUT", "PARTIAL_TIMEOUT", "RESULT_TIMEOUT", "SLOT_TIMEOUT",
  "MISMATCH", "PEER_ABORT",
}
