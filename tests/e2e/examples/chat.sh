curl https://www.stack-ai.me/api/v1/chat \
  -H "Authorization: Bearer sk_stk_your_api_key_here" \
  -H "Content-Type: application/json" \
  -d '{
    "messages": [
      {"role": "user", "content": "Hello, who are you?"}
    ]
  }'
