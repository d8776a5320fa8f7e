-- gemm: C[m,n] = A[m,k] B[n,k]^T (+ bias), one rank.
return {
  op = "gemm",
  worlds = { 1 },
  families = {
    { body = "body.ws_sm90a", comm = { "none" } },
    { library = "cublaslt" },
  },
}
