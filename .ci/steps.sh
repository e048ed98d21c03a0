# The steps of `.ci/run`: one after another, and some beside others. The first that fails ends it all: its output is
# shown, it is named last, and what else goes on is ended.

logs=$PWD/target/ci
mkdir -p "$logs"
# What goes on: its process, by its name.
declare -A going_on=()

# step NAME COMMAND… runs it.
step() {
  echo "== $1"
  rm -f "$logs/$1"
  launch "$@"
  finish "$1"
}

# begin NAME COMMAND… lets it run beside what follows. Its output is shown when it is finished.
begin() {
  echo "== $1 begins"
  launch "$@" >"$logs/$1" 2>&1
}

# finish NAME… waits for them. The first that fails ends it, whatever the others do.
finish() {
  local -A names=()
  local name pid code
  for name in "$@"; do names[${going_on[$name]}]=$name; done
  while ((${#names[@]})); do
    code=0
    wait -n -p pid "${!names[@]}" || code=$?
    name=${names[$pid]}
    unset "names[$pid]" "going_on[$name]"
    [[ ! -e $logs/$name ]] || cat "$logs/$name"
    if ((code)); then
      echo "run: $name failed" >&2
      exit 1
    fi
  done
}

# Each is a group of processes, which can be ended as a whole.
launch() {
  local name=$1
  shift
  set -m
  (
    # What it took, and of processors: which tells more where others use the machine too.
    TIMEFORMAT="== $name: %0R s, %0U + %0S s of processors"
    time "$@"
  ) </dev/null &
  set +m
  going_on[$name]=$!
}

end_all() {
  local pid
  for pid in "${going_on[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  # Each ends in order what it started itself.
  for pid in "${going_on[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap end_all EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
