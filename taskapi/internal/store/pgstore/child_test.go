package pgstore_test

const asChild = "PGSTORE_TEST_CHILD"

func child() {}
