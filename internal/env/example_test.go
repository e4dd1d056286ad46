package env_test

import (
	"fmt"
	"time"

	"github.com/taskwire/taskwire/internal/env"
)

// A service reads its settings with their defaults and limits, and asks for
// mistakes once at the end. Its main passes os.LookupEnv.
func Example() {
	r := env.NewReader(env.Map(map[string]string{"SHUTDOWN_GRACE": "10s"}))
	addr := r.Addr("LISTEN_ADDR", ":8003")
	grace := r.Duration("SHUTDOWN_GRACE", 25*time.Second, 0, time.Hour)
	if err := r.Err(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(addr, grace)
	// Output: :8003 10s
}

// Err names every mistake, so that an operator fixes all of them in one go.
func ExampleReader_Err() {
	r := env.NewReader(env.Map(map[string]string{"SHUTDOWN_GRACE": "soon", "OPS_PPROF": "perhaps"}))
	r.Duration("SHUTDOWN_GRACE", 25*time.Second, 0, time.Hour)
	r.Bool("OPS_PPROF", false)
	fmt.Println(r.Err())
	// Output:
	// SHUTDOWN_GRACE: want a duration such as 25s from 0s to 1h0m0s, have "soon"
	// OPS_PPROF: want true or false, have "perhaps"
}

// Fail records what only the service can check, such as two settings that
// contradict each other.
func ExampleReader_Fail() {
	r := env.NewReader(env.Map(map[string]string{"KAFKA_SASL_USERNAME": "bridge"}))
	if r.String("KAFKA_SASL_USERNAME", "") != "" && r.File("KAFKA_SASL_PASSWORD_FILE") == "" {
		r.Fail("KAFKA_SASL_PASSWORD_FILE", "is missing; KAFKA_SASL_USERNAME needs it")
	}
	fmt.Println(r.Err())
	// Output: KAFKA_SASL_PASSWORD_FILE: is missing; KAFKA_SASL_USERNAME needs it
}

// A list may have spaces and empty items; an empty variable counts as unset.
func ExampleReader_List() {
	r := env.NewReader(env.Map(map[string]string{"TOPICS": "orders, , tasks", "EMPTY": ""}))
	fmt.Printf("%q %q\n", r.List("TOPICS", ""), r.List("EMPTY", "a,b"))
	// Output: ["orders" "tasks"] ["a" "b"]
}
