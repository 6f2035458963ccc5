package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	tokenLifetime = 5 * time.Minute
	deadline      = 5 * time.Second
	attemptsMax   = 5
	firstPause    = 100 * time.Millisecond
)

// Token gives the same token for every call, such as one that `tollhouse token` printed.
type Token string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t Token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity lets the token be sent without TLS, as to the services of this machine.
func (Token) RequireTransportSecurity() bool { return false }

// Signer signs tokens for one service, such as `billing.tollhouse`, with a service's key, each for half its lifetime.
type Signer struct {
	audience        string
	issuer, subject string
	keyID           string
	key             ed25519.PrivateKey

	mutex sync.Mutex
	token Token
	renew time.Time
}

// ReadSigner reads a service's key file.
func ReadSigner(path, audience string) (*Signer, error) {
	var file struct {
		Issuer  string `json:"issuer"`
		Subject string `json:"subject"`
		Key     struct {
			ID      string `json:"kid"`
			Private string `json:"d"`
		} `json:"key"`
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s is no key file", path)
	}
	seed, err := base64.RawURLEncoding.DecodeString(file.Key.Private)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s holds no Ed25519 key", path)
	}
	key := ed25519.NewKeyFromSeed(seed)
	return &Signer{audience: audience, issuer: file.Issuer, subject: file.Subject, keyID: file.Key.ID, key: key}, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s *Signer) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if now := time.Now(); now.After(s.renew) {
		token, err := s.sign(now)
		if err != nil {
			return nil, err
		}
		s.token, s.renew = token, now.Add(tokenLifetime/2)
	}
	return s.token.GetRequestMetadata(ctx, uri...)
}

// RequireTransportSecurity lets the token be sent without TLS, as to the services of this machine.
func (*Signer) RequireTransportSecurity() bool { return false }

func (s *Signer) sign(now time.Time) (Token, error) {
	header, err := json.Marshal(map[string]string{"alg": "EdDSA", "typ": "caller+jwt", "kid": s.keyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": s.issuer, "sub": s.subject, "aud": []string{s.audience},
		"iat": now.Unix(), "exp": now.Add(tokenLifetime).Unix(),
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(header) + "." + encode(claims)
	return Token(signed + "." + encode(ed25519.Sign(s.key, []byte(signed)))), nil
}

// Retrying makes a call again, with growing pauses, while nobody knows whether it was carried out. The request has to
// carry the same operation id each time.
func Retrying[Request, Response any](
	ctx context.Context, call func(context.Context, Request, ...grpc.CallOption) (Response, error), request Request,
) (Response, error) {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		one, cancel := context.WithTimeout(ctx, deadline)
		response, err := call(one, request)
		cancel()
		code := status.Code(err)
		if (code != codes.Unavailable && code != codes.DeadlineExceeded) || attempt == attemptsMax {
			return response, err
		}
		select {
		case <-ctx.Done():
			return response, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)):
			pause *= 2
		}
	}
}
