-- ag_gemm: all-gather the rows of A, then GEMM with this rank's columns of the weights.
return {
  op = "ag_gemm",
  worlds = { 2, 3, 4, 5, 6, 7, 8 },
  families = {
    { body = "body.ws_sm90a", comm = { "ce" } },
    { body = "body.ws_sm90a", comm = { "sm" } },
    { library = "nccl" },
  },
}
