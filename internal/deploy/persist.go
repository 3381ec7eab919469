package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sentry/internal/store"
)

// persist saves something that must not be lost. A full disk is waited for, because the commands have run and what
// they said is worth more than time; everything else is final: a newer owner has fenced us off, or the file is broken.
//
// The context only says when to hurry: a deadline or a cancellation ends the commands, not the saving of how they ended.
func (s *Service) persist(ctx context.Context, save func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	const patience = 5 * time.Minute
	pause := 100 * time.Millisecond
	for start := time.Now(); ; {
		err := save(ctx)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, store.ErrDiskFull):
			return fmt.Errorf("%w: %w", errLost, err)
		case time.Since(start) > patience:
			return fmt.Errorf("%w: gave up after %s: %w", errLost, patience, err)
		}
		s.log.Error("cannot save; trying again", "error", err)
		time.Sleep(pause)
		pause = min(2*pause, 10*time.Second)
	}
}
