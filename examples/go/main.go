// One metered call: authorize before the work, settle after it, look at the balance.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	billing "tollhouse.example/gateway/gen/tollhouse/billing/v1"
	metering "tollhouse.example/gateway/gen/tollhouse/metering/v1"
)

var errDenied = errors.New("denied")

func main() {
	switch err := run(context.Background()); {
	case errors.Is(err, errDenied):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	meteringChannel, err := connect("metering", cmp.Or(os.Getenv("TOLLHOUSE_METERING"), "127.0.0.1:7003"))
	if err != nil {
		return err
	}
	defer meteringChannel.Close()
	billingChannel, err := connect("billing", cmp.Or(os.Getenv("TOLLHOUSE_BILLING"), "127.0.0.1:7002"))
	if err != nil {
		return err
	}
	defer billingChannel.Close()
	admission := metering.NewAdmissionServiceClient(meteringChannel)

	// The name of this work in all services. Whoever repeats a call with it pays once.
	operationID := rand.Text()
	model := cmp.Or(os.Getenv("MODEL"), "swift-1")
	outputMax := int64(800)
	authorized, err := Retrying(ctx, admission.Authorize, &metering.AuthorizeRequest{
		OperationId:     operationID,
		Caller:          &metering.AuthorizeRequest_ApiKey{ApiKey: os.Getenv("API_KEY")},
		Model:           model,
		InputTokens:     1200,
		MaxOutputTokens: &outputMax,
	})
	if err != nil {
		return err
	}
	if denial := authorized.GetDenial(); authorized.GetDecision() != metering.Decision_DECISION_ALLOWED {
		if err := printJSON(map[string]any{"denied": denial.GetReason().String(), "message": denial.GetMessage()}); err != nil {
			return err
		}
		return errDenied
	}

	organizationID := authorized.GetPrincipal().GetOrganizationId()
	tokens, err := work()
	if err != nil {
		request := &metering.CancelRequest{OrganizationId: organizationID, OperationId: operationID}
		_, cancelErr := Retrying(ctx, admission.Cancel, request)
		return errors.Join(err, cancelErr)
	}
	settled, err := Retrying(ctx, admission.Settle, &metering.SettleRequest{
		OrganizationId: organizationID, OperationId: operationID, Model: model, Tokens: tokens,
	})
	if err != nil {
		return err
	}
	accounts := billing.NewAccountServiceClient(billingChannel)
	balance, err := Retrying(ctx, accounts.GetBalance, &billing.GetBalanceRequest{OrganizationId: organizationID})
	if err != nil {
		return err
	}
	return printJSON(map[string]any{
		"operation_id": operationID,
		"cost":         settled.GetUsage().GetCost().GetValue(),
		"replayed":     settled.GetReplayed(),
		"posted":       balance.GetBalance().GetPosted().GetValue(),
	})
}

// work stands for the call of the provider, whose answer says what was used.
func work() (*metering.TokenCounts, error) {
	return &metering.TokenCounts{Input: 1200, Output: 345}, nil
}

// connect opens a channel to a service, with the key or the token that the environment names.
func connect(service, target string) (*grpc.ClientConn, error) {
	var caller credentials.PerRPCCredentials = Token(os.Getenv("TOLLHOUSE_TOKEN"))
	if keyFile := os.Getenv("TOLLHOUSE_KEY_FILE"); keyFile != "" {
		signer, err := ReadSigner(keyFile, service+".tollhouse")
		if err != nil {
			return nil, err
		}
		caller = signer
	}
	return grpc.NewClient(
		target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(caller),
	)
}

func printJSON(document map[string]any) error {
	return json.NewEncoder(os.Stdout).Encode(document)
}
