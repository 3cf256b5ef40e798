const response = await fetch('https://www.stack-ai.me/api/v1/chat', {
  method: 'POST',
  headers: {
    'Authorization': 'Bearer sk_stk_your_api_key_here',
    'Content-Type': 'application/json',
  },
  body: JSON.stringify({
    messages: [
      { role: 'system', content: 'You are a helpful coding assistant.' },
      { role: 'user', content: 'Write a Python function to fibonacci.' }
    ]
  })
});

const data = await response.json();
console.log(data.choices[0].message.content);
