// Package schemas has the schemas of what the Task API publishes: for each subject
// of the Schema Registry a folder, and in it for each version the Avro schema of the
// data and the JSON Schema of the same data as JSON. A version that was published
// does not change; the highest one is in force.
package schemas

import (
	"embed"
)

// Files has the folders of the subjects.
//
//go:embed task-events-value
var Files embed.FS

// TaskEvent is the Avro schema in force of the data of task events.
//
//go:embed task-events-value/v1.avsc
var TaskEvent string

// TaskEventJSON is the address of the JSON Schema of the same data. An event that
// is made to be published in Avro has it as its dataschema.
const TaskEventJSON = "https://raw.githubusercontent.com/taskwire/taskwire/main/schemas/task-events-value/v1.schema.json"
