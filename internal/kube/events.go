package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// watched is what a watch is about.
type watched[O any] interface {
	*O
	version() string       // its resourceVersion
	problem() *wireProblem // where it is no object, but a Status
}

// watchFrom follows the changes of the objects with the labels since version, gives each to take, and tells answered that
// the server follows. It gives the version up to which it saw them. An error says that the server did not answer as it
// should; its saying that it cannot go on from there gives the empty version.
func watchFrom[O any, P watched[O]](ctx context.Context, a *api, path, selector, version string, answered func(), take func(o P, gone bool)) (string, error) {
	length := watchTime + rand.N(watchTime)
	query := url.Values{
		"watch": {"1"}, "labelSelector": {selector}, "allowWatchBookmarks": {"true"}, "resourceVersion": {version},
		"timeoutSeconds": {strconv.Itoa(int(length.Seconds()))},
	}
	ctx, cancel := context.WithTimeoutCause(ctx, length+watchSlack, errors.New("the watch outlived its time"))
	defer cancel()
	response, err := a.open(ctx, cancel, path, query)
	if isCode(err, http.StatusGone) {
		return "", nil
	}
	if err != nil {
		return version, err
	}
	defer response.Body.Close()
	answered()
	return readEvents(response.Body, version, take)
}

// open asks for an answer that comes bit by bit. Its head must come within answerTime; else cancel is called, which ends ctx.
func (a *api) open(ctx context.Context, cancel func(), path string, query url.Values) (*http.Response, error) {
	head := time.AfterFunc(answerTime, cancel)
	response, err := a.send(ctx, http.MethodGet, path, query, nil, "")
	if late := !head.Stop(); late && err != nil && refused(err) == nil {
		return nil, fmt.Errorf("no answer within %s", answerTime)
	}
	return response, err
}

// readEvents takes in the events of a watch until it ends. A watch that ends between two events is no error, whoever
// ended it, as long as it brought some: the next one goes on from there.
func readEvents[O any, P watched[O]](body io.Reader, version string, take func(o P, gone bool)) (string, error) {
	budget := &budgetReader{r: body}
	d := json.NewDecoder(budget)
	began := time.Now()
	for {
		budget.refill()
		var event struct {
			Type   string `json:"type"`
			Object O      `json:"object"`
		}
		err := d.Decode(&event)
		var odd *json.UnmarshalTypeError
		if err != nil && !errors.As(err, &odd) {
			if errors.Is(err, io.EOF) && time.Since(began) > time.Second {
				return version, nil
			}
			return version, fmt.Errorf("the watch broke off: %w", plainError(err))
		}
		o := P(&event.Object)
		switch event.Type {
		case "ADDED", "MODIFIED":
			take(o, false)
		case "DELETED":
			take(o, true)
		case "BOOKMARK":
		case "ERROR":
			if o.problem().Code == http.StatusGone {
				return "", nil
			}
			return version, &refusal{code: o.problem().Code, text: printable(o.problem().Message)}
		default:
			return version, fmt.Errorf("the API server's answer cannot be read: %q is no event of a watch", clip(printable(event.Type), 40))
		}
		if v := o.version(); v != "" {
			version = v
		}
	}
}
