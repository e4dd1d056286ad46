package cesql_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
)

// TestLikeIsARegularExpression compares with one that is made character by character.
func TestLikeIsARegularExpression(t *testing.T) {
	e := parse(t, sample)
	letters := rapid.SampledFrom([]string{"a", "b", "ü", `\`})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(letters, 0, 12).Draw(t, "text"), "")
		if strings.HasSuffix(text, `\`) {
			text += "a" // it would take the quote along
		}
		var pattern, want strings.Builder
		for range rapid.IntRange(0, 8).Draw(t, "pieces") {
			switch piece := rapid.SampledFrom([]string{"%", "%", "_", `\%`, `\_`, "a", "b", "ü"}).Draw(t, "piece"); piece {
			case "%":
				pattern.WriteString(piece)
				want.WriteString(".*")
			case "_":
				pattern.WriteString(piece)
				want.WriteString(".")
			default:
				pattern.WriteString(piece)
				want.WriteString(regexp.QuoteMeta(strings.TrimPrefix(piece, `\`)))
			}
		}
		x, err := cesql.Parse("'" + text + "' LIKE '" + pattern.String() + "'")
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Eval(e)
		if err != nil || got != cesql.OfBool(regexp.MustCompile("^(?s:"+want.String()+")$").MatchString(text)) {
			t.Fatalf("%q LIKE %q = %v, %v, want %v", text, pattern.String(), got, err, !(got == cesql.True))
		}
	})
}

// known is an expression in text, fully in parentheses, with the value that it has.
type known struct {
	text   string
	value  any // bool, int32 or string
	failed bool
}

// TestRandomExpressions compares with values that are computed while the
// expression is put together.
func TestRandomExpressions(t *testing.T) {
	e := parse(t, sample)
	failures := 0
	rapid.Check(t, func(t *rapid.T) {
		want := boolean(t, 4)
		x, err := cesql.Parse(want.text)
		if err != nil {
			t.Fatalf("%s: %v", want.text, err)
		}
		got, err := x.Eval(e)
		if (err != nil) != want.failed || err == nil && fmt.Sprint(got) != fmt.Sprint(want.value) {
			t.Fatalf("%s = %v, %v, want %v, failed %v", want.text, got, err, want.value, want.failed)
		}
		if want.failed {
			failures++
		}
	})
	if failures == 0 {
		t.Error("no expression failed")
	}
}

func boolean(t *rapid.T, depth int) known {
	kinds := []string{"literal", "urgent", "exists", "missing"}
	if depth > 0 {
		kinds = []string{"and", "or", "xor", "not", "=", "<", "<>", "in", "like"}
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "boolean"); kind {
	case "literal":
		b := rapid.Bool().Draw(t, "value")
		return known{fmt.Sprint(b), b, false}
	case "urgent":
		return known{"urgent", true, false}
	case "exists":
		name := rapid.SampledFrom([]string{"id", "type", "actor", "gone"}).Draw(t, "name")
		return known{"EXISTS " + name, name != "gone", false}
	case "missing":
		return known{"(gone = 'x')", false, true}
	case "not":
		x := boolean(t, depth-1)
		return known{"NOT (" + x.text + ")", x.value == false, x.failed}
	case "and", "or", "xor":
		x, y := boolean(t, depth-1), boolean(t, depth-1)
		k := known{text: "(" + x.text + ") " + kind + " (" + y.text + ")", failed: x.failed || y.failed}
		switch kind {
		case "and":
			k.value, k.failed = x.value == true && y.value == true, x.failed || x.value == true && y.failed
		case "or":
			k.value, k.failed = x.value == true || y.value == true, x.failed || x.value == false && y.failed
		case "xor":
			k.value = x.value != y.value
		}
		return k
	case "like":
		x := text(t)
		return known{x.text + " LIKE '%a%'", strings.Contains(x.value.(string), "a"), x.failed}
	case "in":
		x, y, z := text(t), text(t), text(t)
		return known{x.text + " IN (" + y.text + "," + z.text + ")", x.value == y.value || x.value == z.value, false}
	default:
		x, y := number(t, depth-1), number(t, depth-1)
		k := known{text: x.text + kind + y.text, failed: x.failed || y.failed}
		switch kind {
		case "=":
			k.value = x.value == y.value
		case "<>":
			k.value = x.value != y.value
		case "<":
			k.value = x.value.(int32) < y.value.(int32)
		}
		return k
	}
}

func text(t *rapid.T) known {
	return rapid.SampledFrom([]known{
		{"actor", "ann", false}, {"'ann'", "ann", false}, {`"b'"`, "b'", false}, {"UPPER(actor)", "ANN", false},
		{"type", "task.created", false}, {"LEFT(id, 1)", "1", false}, {"CONCAT('a', 'n', 'n')", "ann", false},
	}).Draw(t, "text")
}

func number(t *rapid.T, depth int) known {
	if depth <= 0 {
		return rapid.SampledFrom([]known{{"3", int32(3), false}, {"taskversion", int32(3), false}, {"-2", int32(-2), false}, {"INT('0')", int32(0), false},
			{"LENGTH(actor)", int32(3), false}, {"2147483647", int32(1<<31 - 1), false}}).Draw(t, "number")
	}
	x, y := number(t, depth-1), number(t, depth-1)
	op := rapid.SampledFrom([]string{"+", "-", "*", "/", "%"}).Draw(t, "operator")
	k := known{text: "(" + x.text + op + y.text + ")", value: int32(0), failed: x.failed || y.failed}
	if k.failed {
		return k
	}
	a, b := int64(x.value.(int32)), int64(y.value.(int32))
	var r int64
	switch {
	case (op == "/" || op == "%") && b == 0:
		k.failed = true
		return k
	case op == "+":
		r = a + b
	case op == "-":
		r = a - b
	case op == "*":
		r = a * b
	case op == "/":
		r = a / b
	case op == "%":
		r = a % b
	}
	k.value, k.failed = int32(r), r != int64(int32(r))
	return k
}

// FuzzExpression: any text is refused with a place, or has a value for any event;
// nothing panics, and one that fails has the same answer the next time.
func FuzzExpression(f *testing.F) {
	f.Add(moderate, "ann")
	f.Add(`SUBSTRING(CONCAT_WS(actor, 'a', "b"), -2, 1) LIKE '%\_%_'`, "größe")
	f.Add(`-(3 % taskversion) * ABS(INT(actor)) / 0 <> +4`, "-2147483648")
	f.Add("RIGHT(actor, 2) IN (TRIM(UPPER(actor)),\n BOOL(urgent), NOT 1)", " \u00a0x")
	f.Fuzz(func(t *testing.T, expression, actor string) {
		x, err := cesql.Parse(expression)
		if err != nil {
			var wrong *cesql.Error
			if !errors.As(err, &wrong) || wrong.Place == "" || !utf8.ValidString(err.Error()) && utf8.ValidString(expression) {
				t.Fatalf("%q: %v", expression, err)
			}
			return
		}
		e := parse(t, sample)
		e.SetExtension("actor", actor)
		first, err := x.Eval(e)
		second, again := x.Eval(e)
		if first != second || (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
			t.Fatalf("%q: %v, %v and then %v, %v", expression, first, err, second, again)
		}
	})
}
