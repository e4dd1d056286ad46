package record

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// answer is a task.Answer as an idempotency key keeps it; times are microseconds
// since 1970.
type answer struct {
	ID        string      `json:"id"`
	Title     string      `json:"title"`
	Status    task.Status `json:"status"`
	OwnerID   string      `json:"owner_id,omitempty"`
	Version   int64       `json:"version"`
	CreatedAt int64       `json:"created_at"`
	UpdatedAt int64       `json:"updated_at"`
	Kind      task.Kind   `json:"kind,omitempty"`
}

// MarshalAnswer makes what is stored under an idempotency key.
func MarshalAnswer(a task.Answer) ([]byte, error) {
	t := a.Task
	return json.Marshal(answer{
		ID: t.ID, Title: t.Title, Status: t.Status, OwnerID: t.OwnerID, Version: t.Version,
		CreatedAt: t.CreatedAt.UnixMicro(), UpdatedAt: t.UpdatedAt.UnixMicro(), Kind: a.Kind,
	})
}

// ParseAnswer reads what MarshalAnswer made; the answer counts as replayed.
func ParseAnswer(stored []byte) (task.Answer, error) {
	var a answer
	if err := json.Unmarshal(stored, &a); err != nil {
		return task.Answer{}, fmt.Errorf("read the answer stored under an idempotency key: %w", err)
	}
	return task.Answer{Replayed: true, Kind: a.Kind, Task: task.Task{
		ID: a.ID, Title: a.Title, Status: a.Status, OwnerID: a.OwnerID, Version: a.Version,
		CreatedAt: time.UnixMicro(a.CreatedAt).UTC(), UpdatedAt: time.UnixMicro(a.UpdatedAt).UTC(),
	}}, nil
}
