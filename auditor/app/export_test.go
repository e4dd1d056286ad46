package app

// Open is New with a layer over the log's file.
var Open = open

// Visible is the test's door to what cat does on a terminal.
var Visible = visible
