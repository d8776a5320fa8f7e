-- Shows to test_gen.c which globals a module sees.
return {
  name = "deep",
  globals = { io = io, os = os, print = print, _G = _G, debug = debug, coroutine = coroutine,
    getmetatable = getmetatable, package = package, dofile = dofile, loadfile = loadfile,
    collectgarbage = collectgarbage, utf8 = utf8, pairs = pairs },
}
