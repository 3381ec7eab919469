// Package command runs the commands of deployments: it starts them so that they can be ended with everything they
// started, keeps them away from what is Sentry's own, and writes down what they print.
//
// # What becomes of processes
//
// A command leads a session of its own. When it has to end, it gets SIGTERM, after a grace SIGKILL, and so does
// everything that it has started, however it tried to hide: processes that left the session, cleared their environment
// and had their parents die are found (on Linux) by a resource limit that every process inherits from the command and
// that differs for each of them, and, since this process adopts orphans, nowhere else than below it. The same limit
// carries a mark of the state directory, so that a new daemon can end what a killed one left. See Prepare and Sweep.
//
// # What a command may touch
//
// Where the kernel has Landlock a command sees the whole machine but the paths that its Runner protects, and it can
// neither trace nor (from Linux 6.12 on) signal a process that is not its own. It gains no privileges from set-user-ID
// programs. Other resource limits are not set: what is too much depends on the deployment, and the obvious one,
// RLIMIT_NPROC, counts all processes of the user, those of other deployments and of the daemon included; whoever needs
// bounds gives the daemon a control group. Limits says what of all this the platform at hand lacks.
//
// # What a command prints
//
// Standard output and error are one pipe. What comes through it is masked and written to a log that keeps the head and
// the tail when there is too much, see StepLog.
package command
