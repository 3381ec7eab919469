// Package deploy carries out rollouts: it claims the oldest waiting rollout of an idle group, plans it, runs its
// deployments under the group's policy, and folds their outcomes into one truthful verdict. Every transition is saved
// before the next one begins, so that whatever is killed can be picked up again by the same code.
//
//	Service   decides which rollout may begin, and ends them when the daemon drains       (service.go, recover.go)
//	Plan      a pure function: configuration, heads and changes → deployments and vector  (plan.go)
//	run       one rollout: strategy, limit, continue-on-error, deadline                   (run.go)
//	Executor  one attempt at one deployment; Local is the one there is                    (local.go, attempt.go)
//	place     where its commands run: in this process, or in a Job of Kubernetes          (place.go, pod.go, hear.go)
//	Runner    the program in the pod of a Job, which does the middle as Local does        (runner.go, voice.go)
package deploy
