# Writes OUT, a C file that holds every gen/**.lua and templates/**.in below ROOT (see embed.h).
# Sorted by path, so that the same tree gives the same file.
file(GLOB_RECURSE paths RELATIVE ${ROOT} ${ROOT}/gen/*.lua ${ROOT}/templates/*.in)
list(SORT paths)

set(arrays "")
set(rows "")
set(number 0)
foreach(path IN LISTS paths)
  file(READ ${ROOT}/${path} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," hex "${hex}")
  string(APPEND arrays "static const unsigned char file_${number}[] = {${hex}0};\n")
  string(APPEND rows "    {\"${path}\", file_${number}, ${bytes}},\n")
  math(EXPR number "${number} + 1")
endforeach()

file(WRITE ${OUT} "/* Written by runtime/embed.cmake from gen/ and templates/; do not edit. */
#include \"embed.h\"

${arrays}
const tml_embedded tml_embedded_files[] = {
${rows}    {NULL, NULL, 0},
};
")
