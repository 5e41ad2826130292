"""`python -m chat_service verify …`, as `chat-service verify …` where the package is installed."""

from chat_service.proof.command import main

main(prog_name="chat-service")
