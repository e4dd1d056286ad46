package deliver

// AnsweredBatch is for a fuzz test.
var AnsweredBatch = answeredBatch
