#!/usr/bin/env bash
# A step of a deployment that bears witness. It appends a line to $WITNESS when it starts, every few hundredths of a
# second while it lives, and when it ends. Now and then it leaves a process behind that does the same, and that no other
# signal than KILL may end. Every line is a single write to a file opened for appending.
#
# usage: witness.sh STEP

set -euo pipefail

say() { # say KIND [FIELDS]
	local clock
	read -r clock _ </proc/uptime
	printf '%s %s who=%s pid=%s clock=%s%s\n' "$1" "$id" "$who" "$BASHPID" "$clock" "${2:+ $2}" >>"$file"
}

pause() { read -r -t "$1" -u 9 || true; } # without a process: descriptor 9 is a pipe that nobody writes to

linger() { # a minute, where nobody ends it: long enough to be noticed, and it does not stay for ever
	if ((RANDOM % 2)); then trap '' TERM INT HUP; fi
	for ((n = 0; n < 1200; n++)); do
		say beat
		pause 0.05
	done
}

file=$WITNESS
step=$1
try=1
if [[ -e $HOME/try-$step ]]; then
	try=$(($(<"$HOME/try-$step") + 1))
fi
echo "$try" >"$HOME/try-$step"
mkfifo "$TMPDIR/silence-$step-$try"
exec 9<>"$TMPDIR/silence-$step-$try"

id="life=$WITNESS_LIFE deployment=$SENTRY_DEPLOYMENT_ID attempt=$SENTRY_ATTEMPT step=$step try=$try"
who=main

# What the rollout stands for, as its vector tells it.
vector=$(<"$SENTRY_VECTOR_FILE")
vector=${vector//[[:space:]]/}
entry="\"repository\":\"$SENTRY_REPOSITORY\",\"branch\":\"$SENTRY_BRANCH\",\"commit\":\"([0-9a-f]+)\",\"generation\":([0-9]+),\"changed\":(true|false)"
if [[ $vector =~ $entry ]]; then
	stands="vector=${BASH_REMATCH[1]} generation=${BASH_REMATCH[2]} changed=${BASH_REMATCH[3]}"
else
	stands="vector=none generation=0 changed=false"
fi
tree=$(cat data/* | cksum)
say start "rollout=$SENTRY_ROLLOUT_ID group=$SENTRY_GROUP repository=$SENTRY_REPOSITORY branch=$SENTRY_BRANCH commit=$SENTRY_COMMIT $stands qa=$SENTRY_QA_COMMIT tree=${tree// /:}"

case $((RANDOM % 8)) in
0) # in the background, with the command's output in its hands
	(who=child && linger) &
	;;
1) # a daemon: its own session, no environment, no parent
	(setsid env -i PATH="$PATH" bash -c "$(declare -f say pause linger)"'; file=$1 id=$2 who=daemon; linger' linger "$file" "$id" </dev/null >/dev/null 2>&1 &)
	;;
esac
beats=$((2 + RANDOM % 6))
if ((RANDOM % 5 == 0)); then beats=$((3 * beats)); fi
for (( ; beats > 0; beats--)); do
	say beat
	pause 0.02
done

code=0
if [[ -n ${WITNESS_FAILS:-} && ${SENTRY_COMMIT:0:1} == [$WITNESS_FAILS] ]]; then
	code=7
elif [[ -n ${WITNESS_FLAKY:-} && ${SENTRY_COMMIT:0:1} == [$WITNESS_FLAKY] && $try -eq 1 ]]; then
	code=3
fi
say end "code=$code"
exit "$code"
