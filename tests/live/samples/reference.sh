curl --request DELETE \
  --url https://api.example.com/api/v1/chats/{chat_id} \
  --header 'X-API-Key: <x-api-key>'
