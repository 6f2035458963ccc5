"""The words on documents, by language."""

from collections.abc import Mapping
from typing import Final

_KEYS: Final = (
    *("invoice", "credit_note", "draft", "void", "number", "date", "due", "period", "until", "corrects", "to"),
    *("description", "quantity", "rate", "amount", "subtotal", "tax", "total", "credits_applied", "amount_due"),
    *(
        "credits_used",
        "tax_id",
        "page",
        "of",
        "reason",
        "usage",
        "charge",
        "correction",
        "subscription",
        "first",
        "paid",
    ),
)
_EN: Final = (
    *("Invoice", "Credit note", "Draft", "Void", "Number", "Date", "Due", "Period", "until", "For invoice", "To"),
    *("Description", "Quantity", "Rate", "Amount", "Subtotal", "Tax", "Total", "Paid from balance", "Amount due"),
    *("of which credits", "Tax id", "Page", "of", "Reason", "Usage", "Charges", "Corrections", "Subscription", "start"),
    "Paid",
)
_DE: Final = (
    *("Rechnung", "Gutschrift", "Entwurf", "Storniert", "Nummer", "Datum", "Fällig", "Zeitraum", "bis", "Zu Rechnung"),
    *("An", "Beschreibung", "Menge", "Preis", "Betrag", "Zwischensumme", "Steuer", "Gesamt", "Aus Guthaben bezahlt"),
    *("Zu zahlen", "davon Credits", "Steuernummer", "Seite", "von", "Grund", "Nutzung", "Belastungen", "Korrekturen"),
    *("Abonnement", "Beginn", "Bezahlt"),
)
_FR: Final = (
    *(
        "Facture",
        "Avoir",
        "Brouillon",
        "Annulée",
        "Numéro",
        "Date",
        "Échéance",
        "Période",
        "jusqu'au",
        "Pour la facture",
    ),
    *("À", "Description", "Quantité", "Tarif", "Montant", "Sous-total", "Taxe", "Total", "Payé par le solde"),
    *("À payer", "dont crédits", "Numéro fiscal", "Page", "sur", "Motif", "Consommation", "Débits", "Corrections"),
    *("Abonnement", "début", "Payée"),
)
_ES: Final = (
    *("Factura", "Nota de crédito", "Borrador", "Anulada", "Número", "Fecha", "Vence", "Periodo", "hasta"),
    *("De la factura", "Para", "Descripción", "Cantidad", "Tarifa", "Importe", "Subtotal", "Impuesto", "Total"),
    *("Pagado con saldo", "A pagar", "de ello créditos", "Número fiscal", "Página", "de", "Motivo", "Uso", "Cargos"),
    *("Correcciones", "Suscripción", "inicio", "Pagada"),
)
WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    language: dict(zip(_KEYS, words, strict=True))
    for language, words in (("en", _EN), ("de", _DE), ("fr", _FR), ("es", _ES))
}
"""Each word of a document by its key, by language."""
