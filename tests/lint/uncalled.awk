# Functions that a header of runtime/, tuner/ or tests/fake/ declares and nothing calls: the files are the
# arguments. A declaration or definition opens in the first column with its name before the first
# parenthesis, as clang-format lays it out; any other mention in code counts as a call.
{
  line = $0
  gsub(/\/\*([^*]|\*[^\/])*\*\//, "", line)
  sub(/\/\*.*/, "", line)
}
line ~ /^ \*/ { next }
line ~ /^[A-Za-z]/ && line !~ /^(static|typedef)/ && match(line, /[A-Za-z_][A-Za-z_0-9]*\(/) {
  name = substr(line, RSTART, RLENGTH - 1)
  if (FILENAME ~ /^(runtime|tuner|tests\/fake)\/.*\.h$/) declared[name] = FILENAME ":" FNR
  line = substr(line, RSTART + RLENGTH)
}
{
  while (match(line, /[A-Za-z_][A-Za-z_0-9]*/)) {
    called[substr(line, RSTART, RLENGTH)] = 1
    line = substr(line, RSTART + RLENGTH)
  }
}
END { for (name in declared) if (!(name in called)) print declared[name] ": " name }
