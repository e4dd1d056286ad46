package app

// Open is New with a layer over the log's file.
var Open = open

// Visible is visible for tests outside the package.
var Visible = visible

// IsTerminal is isTerminal for tests outside the package.
var IsTerminal = isTerminal
