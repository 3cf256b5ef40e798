import requests

API_KEY = "sk_stk_your_api_key_here"
BASE_URL = "https://www.stack-ai.me/api/v1"

headers = {
    "Authorization": f"Bearer {API_KEY}",
    "Content-Type": "application/json",
}

response = requests.post(
    f"{BASE_URL}/chat",
    headers=headers,
    json={"messages": [{"role": "user", "content": "Explain async/await in JavaScript"}]},
)

data = response.json()
print(data["choices"][0]["message"]["content"])
