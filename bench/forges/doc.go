// Package forges measures what Sentry costs the forges that it asks, beside one request for each branch, which is how
// watching them usually starts. It has only tests.
package forges
