// Package restart measures how long a daemon with much to watch, and a long past, is away when it is started again.
package restart
