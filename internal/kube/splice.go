package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// marks is what is added to the metadata of an object.
type marks struct {
	labels, annotations map[string]string
	uid                 string // "" to leave it alone
}

// splice adds marks to the metadata of an object in valid JSON and leaves every other byte as it is: numbers keep their digits
// and mistakes their places, so the API server finds what it would have found. Where the object says something else about
// a mark, the mark wins.
func splice(object []byte, m marks) ([]byte, error) {
	metadata, err := member(object, 0, "metadata")
	if err != nil {
		return nil, err
	}
	text := []byte("{}")
	if metadata.found() && !bytes.Equal(metadata.of(object), []byte("null")) {
		text = metadata.of(object)
	}
	for _, part := range []struct {
		key    string
		values map[string]string
	}{{"labels", m.labels}, {"annotations", m.annotations}} {
		if len(part.values) == 0 {
			continue
		}
		if text, err = mergeInto(text, part.key, part.values); err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	if m.uid != "" {
		if text, err = setMember(text, "uid", quote(m.uid)); err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	return putMember(object, metadata, "metadata", text), nil
}

// mergeInto adds values to the object of texts that is a member of an object.
func mergeInto(object []byte, key string, values map[string]string) ([]byte, error) {
	at, err := member(object, 0, key)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	if at.found() {
		if err := json.Unmarshal(at.of(object), &all); err != nil {
			return nil, fmt.Errorf("%s is not an object", key)
		}
	}
	if all == nil { // null
		all = map[string]json.RawMessage{}
	}
	for k, v := range values {
		all[k] = quote(v)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return putMember(object, at, key, text), nil
}

// setMember replaces the value of a member, or adds the member at the beginning.
func setMember(object []byte, key string, value []byte) ([]byte, error) {
	at, err := member(object, 0, key)
	if err != nil {
		return nil, err
	}
	return putMember(object, at, key, value), nil
}

// putMember is setMember where it is known where the member is.
func putMember(object []byte, at part, key string, value []byte) []byte {
	if at.found() {
		return replace(object, at, value)
	}
	open := skipSpace(object, 0) + 1
	text := append(append(quote(key), ':'), value...)
	if object[skipSpace(object, open)] != '}' {
		text = append(text, ',')
	}
	return replace(object, part{open, open}, text)
}

func replace(text []byte, at part, with []byte) []byte {
	out := make([]byte, 0, len(text)+len(with))
	out = append(out, text[:at.start]...)
	out = append(out, with...)
	return append(out, text[at.end:]...)
}

func quote(text string) []byte {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // a text can be written
	}
	return raw
}

// part is a range of bytes, the end excluded. The zero part is none.
type part struct{ start, end int }

func (p part) found() bool           { return p.end > 0 }
func (p part) of(text []byte) []byte { return text[p.start:p.end] }

// member finds the value of a key in the object that begins at i of valid JSON; the zero part where there is none. It is
// an error where there is no object, or the key is there twice: which of them counts is not for us to say.
func member(text []byte, i int, key string) (part, error) {
	i = skipSpace(text, i)
	if i == len(text) || text[i] != '{' {
		return part{}, errors.New("not an object")
	}
	var found part
	for i = skipSpace(text, i+1); text[i] != '}'; {
		end := skipValue(text, i)
		name := text[i:end]
		start := skipSpace(text, skipSpace(text, end)+1) // behind the colon
		end = skipValue(text, start)
		if isKey(name, key) {
			if found.found() {
				return part{}, fmt.Errorf("%q is there twice", key)
			}
			found = part{start, end}
		}
		if i = skipSpace(text, end); text[i] == ',' {
			i = skipSpace(text, i+1)
		}
	}
	return found, nil
}

// isKey reports whether the quoted name is the key.
func isKey(quoted []byte, key string) bool {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1:len(quoted)-1]) == key
	}
	var name string
	return json.Unmarshal(quoted, &name) == nil && name == key
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	return i
}

// skipValue gives the end of the value that begins at i.
func skipValue(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch text[i] {
		case '"':
			i = skipText(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
		default: // a number or a word
			for i < len(text) && strings.IndexByte(" \t\r\n,:]}", text[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// skipText gives the end of the text that begins at i.
func skipText(text []byte, i int) int {
	for i++; ; i++ {
		i += bytes.IndexByte(text[i:], '"')
		backslashes := 0
		for text[i-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i + 1
		}
	}
}
