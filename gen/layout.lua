-- The control pad: one block of 64-bit words per rank, in symmetric memory, zeroed once.
-- This rank's own words stand in 128-byte lines (16 words) of their own; those that peers write share lines
-- with their like.
--
--   word                       writer          meaning
--   epoch                      this rank       number of the last finished call
--   ticket                     this rank       blocks that have finished in this call
--   claim                      this rank       1: the fault record is taken
--   abort                      every rank      0, or 1 + the rank that raised it; sticky
--   slot_last[slot]            this rank       call that last used a copy slot
--   outbox[slot]               this rank       what the copies carry as their signal
--   header[parity][src]{2}     rank src        {epoch, fingerprint} of its current call
--   done[src]                  rank src        call up to which it has finished reading copy slots
--   done[own]                  this rank       last call that left this to the next gate; 0: none has
--   shard[slot][src]{chunk}    rank src (copy) call whose chunk of its shard has arrived; 4 chunks
--   ready[src]                 rank src        call for which its A may be pulled
--   pulled[src]                rank src (copy) call whose copies have read this rank's A
return {
  epoch = 0, ticket = 16, claim = 32, abort = 48, slot_last = 64, outbox = 80,
  header = 96, done = 128, shard = 144, ready = 208, pulled = 216, words = 256,
}
