package cesql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/cesql"
	"github.com/taskwire/taskwire/internal/event"
)

const sample = `{"specversion":"1.0","id":"1","source":"task-api","type":"task.created","subject":"größe","time":"2026-01-02T03:04:05+01:00","taskversion":3,"urgent":true,"actor":"ann"}`

func parse(t testing.TB, text string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func eval(t testing.TB, expression string, e event.Event) (cesql.Value, error) {
	t.Helper()
	x, err := cesql.Parse(expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return x.Eval(e)
}

// TestEval has what the conformance cases leave out.
func TestEval(t *testing.T) {
	e := parse(t, sample)
	for expression, want := range map[string]any{
		// equal operators group from left to right, also AND, OR and XOR
		`TRUE OR TRUE AND FALSE`:               false,
		`FALSE AND FALSE OR TRUE`:              true,
		`TRUE XOR TRUE OR TRUE`:                true,
		`8 - 4 - 2`:                            2,
		`8 / 4 * 2`:                            4,
		`1 = 1 = TRUE`:                         true,
		`5-3`:                                  2,
		`5 -3`:                                 2,
		`2 + 3 * 4 = 14 AND 1 < 2`:             true,
		`NOT FALSE = TRUE`:                     true,
		`NOT TRUE LIKE 'false'`:                true, // (NOT TRUE) LIKE 'false'
		`2 * 3 IN (6)`:                         0,    // 2 * (3 IN (6))
		`NOT EXISTS nothing AND TRUE`:          true,
		`- 2147483648`:                         -2147483648,
		`+7`:                                   7,
		`not(true)`:                            false,
		"actor\n\t=\r\n'ann'":                  true,
		`Actor = "ann"`:                        true,
		`"it's" = 'it\'s'`:                     true,
		`LENGTH('a\\b')`:                       4, // only the quote loses its backslash
		`taskversion = '3'`:                    true,
		`taskversion >= 3 AND urgent`:          true,
		`urgent IN ('TRUE')`:                   true,
		`time`:                                 "2026-01-02T02:04:05Z",
		`time LIKE '2026-01-%'`:                true,
		`specversion`:                          "1.0",
		`LENGTH(subject)`:                      5,
		`subject LIKE 'gr__e'`:                 true,
		`subject LIKE '_____'`:                 true,
		`subject LIKE '______%'`:               false,
		`subject LIKE '%öß%'`:                  true,
		`LEFT(subject, 3) = 'grö'`:             true,
		`RIGHT(subject, 2) = 'ße'`:             true,
		`SUBSTRING(subject, 3, 2)`:             "öß",
		`SUBSTRING(subject, -2)`:               "ße",
		`SUBSTRING(subject, 2, 99)`:            "röße",
		`SUBSTRING('a', 1, 0)`:                 "",
		`UPPER(actor)`:                         "ANN",
		`CONCAT(1, TRUE, 'x')`:                 "1truex",
		`TRIM(' \t')`:                          `\t`, // there are no escapes for characters
		`'' LIKE '%'`:                          true,
		`'ab' LIKE '%%b'`:                      true,
		`'a\b' LIKE 'a\b'`:                     true,
		`'a\%' LIKE 'a\\%'`:                    true, // a backslash, then a percent sign
		`'a\x' LIKE 'a\\%'`:                    false,
		`'a\x' NOT LIKE 'a\_'`:                 true,
		`INT('+5')`:                            5,
		`-7 / 2`:                               -3,
		`-7 % 2`:                               -1,
		`TRUE OR 1 / 0`:                        true,
		`EXISTS subject AND subject = 'größe'`: true,
		`0 AND TRUE`:                           false,
	} {
		got, err := eval(t, expression, e)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
		} else if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s = %v, want %v", expression, got, want)
		}
	}
}

// TestEvalFails names the place and the reason, for explain.
func TestEvalFails(t *testing.T) {
	e := parse(t, sample)
	for expression, want := range map[string]string{
		`type = 'x' OR nothing = 'x'`:      `false, character 15: the event has no attribute nothing`,
		"type = 'x'\n  OR ünterwegs = 1":   "",
		"type = 'x'\n  OR nothing = 1":     `false, line 2, character 6: the event has no attribute nothing`,
		`'größe' = subject AND actor = 1`:  `false, character 23: "ann" is not an Integer`,
		`NOT 0`:                            `true, character 5: NOT takes no Integer, and this is 0; see BOOL`,
		`NOT actor`:                        `true, character 5: "ann" is not a Boolean`,
		`urgent AND 'falſe'`:               `false, character 12: "falſe" is not a Boolean`,
		`2147483647 + 1`:                   `0, character 12: the result is no Integer, which has 32 bits`,
		`-(-2147483647 - 1)`:               `0, character 1: the result is no Integer, which has 32 bits`,
		`1 + 1 % 0`:                        `0, character 7: a division by zero`,
		`5 IN (4, 'five', 5)`:              `false, character 10: "five" is not an Integer`,
		`nothing NOT LIKE 'x'`:             `false, character 1: the event has no attribute nothing`,
		`SUBSTRING('', 1)`:                 `, character 1: a position outside the text`,
		`SUBSTRING('a', 1, -1)`:            `, character 1: a negative length`,
		`1 + '99999999999'`:                `0, character 5: "99999999999" is not an Integer`,
		`1 + '` + strings.Repeat("9", 200): "",
		`LENGTH(nothing)`:                  `0, character 8: the event has no attribute nothing`,
	} {
		x, err := cesql.Parse(expression)
		if want == "" {
			if err == nil {
				t.Errorf("%s: parsed", expression)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := x.Eval(e)
		if got := fmt.Sprintf("%v, %v", v, err); got != want {
			t.Errorf("%s\n = %s\nwant %s", expression, got, want)
		}
	}
}

func TestParseFails(t *testing.T) {
	for expression, want := range map[string]string{
		``:                                   `character 1: want a value, have the end`,
		`type =`:                             `character 7: want a value, have the end`,
		`größe = 1`:                          `character 3: a character that has no meaning here; text goes into quotes`,
		`type = 'größe' hunter2`:             `character 16: want an operator or the end, have a name`,
		`type 'hunter2'`:                     `character 6: want an operator or the end, have a text in quotes`,
		`'it''s'`:                            `character 5: want an operator or the end, have a text in quotes`,
		`type = 'x`:                          `character 8: a text without its closing quote`,
		`type = 'x\'`:                        `character 8: a text without its closing quote`,
		`(1 = 1`:                             `character 7: want ")", have the end`,
		`1 IN ()`:                            `character 7: want a value, have ")"`,
		`1 IN 1`:                             `character 6: want "(", have a number`,
		`x LIKE y`:                           `character 8: want a pattern in quotes, have a name`,
		`x NOT = y`:                          `character 7: want LIKE or IN, have "="`,
		`x NOT NOT LIKE 'y'`:                 `character 7: want LIKE or IN, have "NOT"`,
		`EXISTS 'x'`:                         `character 8: want an attribute, have a text in quotes`,
		`EXISTS true`:                        `character 8: want an attribute, have "true"`,
		`and = 1`:                            `character 1: want a value, have "and"`,
		`+type`:                              `character 2: want a number, have a name`,
		`2147483648`:                         `character 1: the number is outside -2147483648 to 2147483647`,
		`-2147483649`:                        `character 1: the number is outside -2147483648 to 2147483647`,
		`task_version = 1`:                   `character 1: attribute names are made of letters and digits`,
		`data LIKE '%x%'`:                    `character 1: an expression sees the attributes of an event, not its data`,
		`LEN(type) > 1`:                      `character 1: there is no function LEN`,
		`LEFT(type)`:                         `character 1: wrong number of arguments for LEFT`,
		`ABS(1, 2)`:                          `character 1: wrong number of arguments for ABS`,
		"type = 'x' AND\n  subject LIKE 'x":  `line 2, character 16: a text without its closing quote`,
		strings.Repeat("(", 65) + "1":        `character 65: more than 64 levels within each other`,
		strings.Repeat("NOT ", 9999):         `character 1: the expression is longer than 8192 bytes`,
		strings.Repeat("NOT ", 65) + "TRUE":  `character 257: more than 64 levels within each other`,
		strings.Repeat("ABS(", 65) + "TRUE)": `character 257: more than 64 levels within each other`,
	} {
		if _, err := cesql.Parse(expression); err == nil || err.Error() != want {
			t.Errorf("%.60s\n = %v\nwant %s", expression, err, want)
		}
	}
}

// TestLongChains are as deep as they are long.
func TestLongChains(t *testing.T) {
	e := parse(t, sample)
	if v, err := eval(t, "FALSE"+strings.Repeat(" OR 1=2", 1000), e); err != nil || v != cesql.OfBool(false) {
		t.Errorf("1000 times OR = %v, %v", v, err)
	}
	if v, err := eval(t, "0"+strings.Repeat("+1", 4000), e); err != nil || v != cesql.OfInt(4000) {
		t.Errorf("4000 times + = %v, %v", v, err)
	}
}

// TestLikeIsNotExponential: with backtracking this would take longer than the
// universe has.
func TestLikeIsNotExponential(t *testing.T) {
	e := parse(t, strings.Replace(sample, `"ann"`, `"`+strings.Repeat("a", 2000)+`"`, 1))
	began := time.Now()
	for _, pattern := range []string{strings.Repeat("%a", 2000) + "b", strings.Repeat("%a_", 500) + "%b%", strings.Repeat("_%", 1000) + "%b", "%" + strings.Repeat("a_", 900) + "b%"} {
		if v, err := eval(t, "actor LIKE '"+pattern+"'", e); err != nil || v != cesql.OfBool(false) {
			t.Errorf("LIKE %.20s... = %v, %v, want false", pattern, v, err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

const moderate = `type LIKE 'task.%' AND subject NOT IN ('a', 'b') AND (taskversion > 2 OR actor = 'bob') AND NOT EXISTS gone`

func TestEvalDoesNotAllocate(t *testing.T) {
	e := parse(t, sample)
	x, err := cesql.Parse(moderate)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if v, err := x.Eval(e); err != nil || v != cesql.True {
			t.Fatal(v, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkEval(b *testing.B) {
	e := parse(b, sample)
	for name, expression := range map[string]string{"moderate": moderate, "missing": "gone = 'x'", "types": "type IN ('task.completed', 'task.created')"} {
		x, err := cesql.Parse(expression)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = x.Eval(e)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = cesql.Parse(moderate)
	}
}
