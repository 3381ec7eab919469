// Package deploy measures how long a change that was found waits for the first byte of its command.
package deploy
