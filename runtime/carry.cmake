# Copies the shared libraries that BINARY needs, and a machine without our build packages lacks,
# into the folder INTO, where its $ORIGIN run path finds them.
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${BINARY} RESOLVED_DEPENDENCIES_VAR found
  UNRESOLVED_DEPENDENCIES_VAR missing
  PRE_INCLUDE_REGEXES "^lib(lua|sqlite|xxhash|cjson)" PRE_EXCLUDE_REGEXES ".")
foreach(library IN LISTS found)
  get_filename_component(folder ${library} DIRECTORY)
  if(NOT folder STREQUAL INTO)
    file(COPY ${library} DESTINATION ${INTO} FOLLOW_SYMLINK_CHAIN)
  endif()
endforeach()
