# Writes OUT: the commit of ROOT, -dirty where files differ from it, unknown where ROOT is no repository of
# its own. Run by every build; what is the same is not written again.
set(commit unknown)
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} rev-parse --show-toplevel WORKING_DIRECTORY ${ROOT}
    OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(REAL_PATH ${ROOT} real)
  if(top STREQUAL real)
    execute_process(COMMAND ${GIT} describe --always --dirty --exclude=* WORKING_DIRECTORY ${ROOT}
      OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(described)
  set(commit ${described})
endif()
set(text "#define TML_COMMIT \"${commit}\"\n")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUT} "${text}")
endif()
