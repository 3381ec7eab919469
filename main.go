// Sentry watches branches of many Git repositories and rolls out groups of them.
package main

func main() {}
