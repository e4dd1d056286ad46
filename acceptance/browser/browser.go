// Package browser holds the tests of the web console in a real browser, headless
// Chromium, against the whole system: what somebody sees who has nothing else.
package browser
