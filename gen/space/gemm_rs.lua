-- gemm_rs: GEMM over this rank's part of k, then reduce-scatter of the rows.
return {
  op = "gemm_rs",
  worlds = { 2, 3, 4, 5, 6, 7, 8 },
  families = {
    { body = "body.ws_sm90a", comm = { "push", "ring" } },
    { library = "nccl" },
  },
}
