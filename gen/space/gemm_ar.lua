-- gemm_ar: GEMM over this rank's part of k, then all-reduce.
return {
  op = "gemm_ar",
  worlds = { 2, 3, 4, 5, 6, 7, 8 },
  families = {
    { body = "body.ws_sm90a", comm = { "twoshot" } },
    { library = "nccl" },
  },
}
