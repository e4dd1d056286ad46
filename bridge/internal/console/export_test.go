package console

// Pretty is how the text of a record is shown.
var Pretty = pretty
