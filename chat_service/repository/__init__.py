"""Database access: the only code of the running service that uses pymongo and bson.

Where to look, by subject:

- Running commands: `database` (client and collections), `transaction`, `unit_of_work`, `together` (group commit),
  `deadline`, `clock`, `outage`, `traffic` (backpressure), `monitor` and `tracer` (what is counted and traced).
- What is stored: `keys` (all primary keys), `shape` (collections and indexes), `migration`, `lists`, `checks`,
  `health`.
- Chats: `chats`, `messages`, `exports`, `imports`, `presence`, `tickets`, `changes` (for live connections),
  `idempotency`.
- Deleting: `lifecycle` (the only code that deletes a chat), `deletions`, `bulk`, `trash`, `expired`, `previews`,
  `purges`, `receipts`.
- Governing: `protection` (holds in force), `holds`, `retention`, `erasures`, `deferrals`, `tenant_rules`.
- The log: `pending` (the outbox), `sequencer`, `log`, `log_tree`, `proofs`, `ledger`, `replay`, `replay_effects`,
  `webhooks`, `deliveries`, `receivers`, `sealing`.
- Tenants: `tenants`, `api_keys`, `limits`, `tenant_deletions`.
- Dead processes: `processes`, `orphans`; `complaints` for what is wrong outside.
"""
