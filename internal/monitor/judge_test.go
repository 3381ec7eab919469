package monitor

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sentry/internal/sentry"
)

// Each case is a list of answers about the branch main, one an interval, and what is recorded of it.
//
//	A      main is at commit A            0    the answer is empty
//	-      main is not in the answer      !    the host fails
//	~A     A, a quarter of an interval    ?    the repository is not found
//	       after the answer before        #    main is at something that is no commit
//	$A     A, but recording it fails      %    Sentry is killed and started again
//	&A     A, and recording it fails after it has happened
//
// Recorded: A is a first sight or a branch that is back where it was, A! a change, A* a change to a former commit, - a
// deletion. The number after the bar counts what was doubted in the ledger.
const answerCases = `
A A A             -> A | 0
A B               -> A B! | 0
A B C D           -> A B! C! D! | 0
A ~B ~C           -> A B! C! | 0

# A lagging replica: nothing. A real move back: exactly one change.
A B A B           -> A B! | 1
A B A B A B A B   -> A B! | 1
A B A A           -> A B! A* | 1
A B A A A A       -> A B! A* | 1
A B A A B B       -> A B! A* B* | 2
A B A ~A ~A ~A    -> A B! | 1
A B A ~A ~A ~A ~A -> A B! A* | 1
A B A ~A ~B ~A ~A -> A B! | 1
A B A C           -> A B! C! | 1
A B A C A         -> A B! C! | 2
A B C A B A B     -> A B! C! | 4
A B C A ~B A      -> A B! C! | 3
A B ! ! A ! A     -> A B! A* | 1
A B A ! B         -> A B! | 1
A B A % A         -> A B! | 2
A B A % A A       -> A B! A* | 2

# Deleted only when it was missed twice, an interval apart. (An empty answer lacks a second branch as well.)
A -               -> A | 1
A - A - A         -> A | 1
A - -             -> A - | 1
A - - - -         -> A - | 1
A - ~- ~- ~-      -> A | 1
A - ~- ~- ~- ~-   -> A - | 1
A - ! -           -> A - | 1
A 0               -> A | 2
A 0 0             -> A - | 2
A 0 A             -> A | 2
A - B             -> A B! | 1
A - - A           -> A - A | 1
A - - A - -       -> A - A - | 2
A - - B           -> A - B! | 1
A B - - A         -> A B! - | 2
A B - - A A       -> A B! - A* | 2
A B - - A - A     -> A B! - | 2
A - % - A         -> A | 2

# A repository that is not there has no deleted branches.
A ? ? ? ? A       -> A | 0
A ? ? ? ? B       -> A B! | 0
A - ? ? A         -> A | 1

# Never there, and then it is.
0 0 0 A           -> A | 0
- - A B           -> A B! | 0
- % A             -> A | 0

# What is no answer changes nothing.
A # # A           -> A | 0
A # B             -> A B! | 0
A - # -           -> A - | 1

# Recording fails: found again. Failed, but happened: not recorded twice, and not doubted.
A $B B            -> A B! | 0
A $B C            -> A C! | 0
A $B A            -> A | 0
A &B B B          -> A B! | 0
A &B A            -> A B! | 1
A &B A A          -> A B! A* | 1
$A A              -> A | 0
A B A $A A        -> A B! A* | 1
A - $- -          -> A - | 1
A % A             -> A | 0
A % B             -> A B! | 0
A &B % B          -> A B! | 0
`

func TestAnswers(t *testing.T) {
	for line := range strings.Lines(answerCases) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' && strings.HasPrefix(line, "# ") {
			continue
		}
		answers, want, _ := strings.Cut(line, "->")
		t.Run(strings.Join(strings.Fields(answers), ""), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				for _, answer := range strings.Fields(answers) {
					w.give(answer)
				}
				var got []string
				for _, move := range strings.Fields(w.book.moves()) {
					if move, ok := strings.CutPrefix(move, "main="); ok {
						got = append(got, move)
					}
				}
				result := fmt.Sprintf("%s | %d", strings.Join(got, " "), len(w.book.decisions(sentry.Doubted)))
				if result != strings.TrimSpace(want) {
					t.Errorf("recorded %s, want %s", result, strings.TrimSpace(want))
				}
			})
		})
	}
}

// give has the repository asked once, an interval after the last time, and answered as a word of the language says.
func (w *world) give(word string) {
	const interval = time.Minute
	if word == "%" {
		w.remake(Options{})
		return
	}
	if rest, ok := strings.CutPrefix(word, "~"); ok {
		time.Sleep(interval / 4)
		word = rest
	} else {
		time.Sleep(interval)
	}
	failure := errors.New("the disk is full")
	var wrong bool
	w.book.fault, w.book.after = nil, nil
	w.forge.faults = map[string]error{}
	switch word[0] {
	case '$':
		w.book.fault, wrong, word = failure, true, word[1:]
	case '&':
		w.book.after, wrong, word = failure, true, word[1:]
	}
	heads := map[string]string{"other": sha("X")}
	switch word {
	case "-":
	case "0":
		heads = nil
	case "!":
		w.forge.faults["r"], wrong = sentry.Faultf(sentry.Transient, "502 Bad Gateway"), true
	case "?":
		w.forge.faults["r"], wrong = sentry.Faultf(sentry.NotFound, "404 Not Found"), true
	case "#":
		heads["main"], wrong = "<html>", true
	default:
		heads["main"] = sha(word)
	}
	w.forge.heads["r"] = heads
	err := w.Once(w.t.Context(), configure(repo("r", "forge.example", interval, "main", "other")), "r")
	if (err != nil) != wrong {
		w.t.Errorf("%s: %v", word, err)
	}
}

// What an answer may hold besides branches that are watched.
func TestJudgeForeignBranches(t *testing.T) {
	e := evidence{
		heads:    []head{{branch: "main", commit: must(parseCommit(sha("A")))}},
		patterns: parsePatterns("main", "release/*", "/^v[0-9]+$/"),
		interval: time.Minute, branches: 5,
	}
	never := func(string, string) (bool, error) { return false, nil }
	answer := map[string]string{
		"main": sha("A"), "release/1": sha("B"), "release/1/x": sha("B"), "v2": sha("C"), "v2x": sha("C"), "dev": sha("D"),
		"release/-x": sha("B"), "release/a..b": sha("B"), "release/\x1b": sha("B"),
	}
	j, err := judge(e, answer, never)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range j.moves {
		got = append(got, fmt.Sprintf("%s=%s", v.branch, name(v.to)))
	}
	if s := strings.Join(got, " "); s != "release/-x=B release/1=B v2=C" {
		t.Errorf("moves: %s", s)
	}
	if len(e.heads) != 1 || e.doubts != nil {
		t.Error("judge changed what it was given")
	}

	for i := range 6 {
		answer[fmt.Sprintf("release/%d", i)] = sha("B")
	}
	var fault *sentry.Fault
	if _, err := judge(e, answer, never); !errors.As(err, &fault) || fault.Kind != sentry.Invalid {
		t.Errorf("too many branches: %v, want a fault of kind invalid", err)
	}
	failure := errors.New("no disk")
	answer = map[string]string{"main": sha("B")}
	if _, err := judge(e, answer, func(string, string) (bool, error) { return false, failure }); !errors.Is(err, failure) {
		t.Errorf("recorded fails: %v, want its error", err)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestCommitID(t *testing.T) {
	for _, text := range []string{sha("A"), strings.Repeat("0123456789abcdef", 4)} {
		c, err := parseCommit(text)
		if err != nil || c.String() != text || !c.is(text) {
			t.Errorf("%s: %v, %v", text, c, err)
		}
		last := text[:len(text)-1]
		for _, other := range []string{"", last, last + "f0", last + "g", strings.ToUpper(last) + "E", last + "0"} {
			if other != text && c.is(other) {
				t.Errorf("%s is %s", text, other)
			}
		}
	}
	for _, bad := range []string{"", "main", strings.Repeat("g", 40), strings.Repeat("A", 40), strings.Repeat("0", 41)} {
		if _, err := parseCommit(bad); err == nil {
			t.Errorf("%q was taken for a commit", bad)
		}
	}
}
