-- Fixed answers in Groq's format: one completion, and streams of 100 events in bursts of five or one by one. The request
-- selects one by `"stream": true`, and the word `spaced` anywhere in its body; with the word `slow`, a stream sends a
-- word every five seconds until `/release` ends all of them.
local answers = {}

local PAUSE_SECONDS = 0.01
local FAILOVER_SECONDS = 5
local MODEL = "openai/gpt-oss-20b"
local HEAD = '{"id":"chatcmpl-a79f596a-cdc3-4b0b-9e02-0cd4dda5506e","object":"chat.completion'
local USAGE = '{"queue_time":0.0521354,"prompt_tokens":78,"prompt_time":0.00380814,"completion_tokens":98,'
  .. '"completion_time":0.096813737,"total_tokens":176,"total_time":0.100621877,'
  .. '"completion_tokens_details":{"reasoning_tokens":0}}'

local function word(number)
  return number % 9 == 0 and " quotas," or " tokens"
end

local function text()
  local words = {}
  for number = 1, 98 do words[number] = word(number) end
  return table.concat(words)
end

local COMPLETION = HEAD .. '","created":1791297846,"model":"' .. MODEL .. '","choices":[{"index":0,"message":{"role":'
  .. '"assistant","content":"' .. text() .. '"},"logprobs":null,"finish_reason":"stop"}],"usage":' .. USAGE
  .. ',"usage_breakdown":null,"system_fingerprint":"fp_21e59ac2de","x_groq":{"id":"req_01m48tqzdve5v8d97j7jgm40as",'
  .. '"seed":1321871292},"service_tier":"on_demand"}\n'

local function event(choices, rest)
  return 'data: ' .. HEAD .. '.chunk","created":1791297846,"model":"' .. MODEL
    .. '","system_fingerprint":"fp_21e59ac2de","choices":' .. choices .. (rest or "") .. '}\n\n'
end

local function choice(delta, finish)
  return '[{"index":0,"delta":' .. delta .. ',"logprobs":null,"finish_reason":' .. finish .. '}]'
end

local function events()
  local list = { event(choice('{"role":"assistant","content":""}', "null"),
    ',"x_groq":{"id":"req_01m48tqzdve5v8d97j7jgm40as","seed":1321871292}') }
  for number = 1, 98 do
    list[#list + 1] = event(choice('{"content":"' .. word(number) .. '"}', "null"))
  end
  list[#list + 1] = event(choice("{}", '"stop"'),
    ',"x_groq":{"id":"req_01m48tqzdve5v8d97j7jgm40as","usage":' .. USAGE .. '},"usage":' .. USAGE)
  return list
end

local function grouped(list, size)
  local groups = {}
  for first = 1, #list, size do
    groups[#groups + 1] = table.concat(list, "", first, math.min(first + size - 1, #list))
  end
  return groups
end

local SPACED = events()
local BURSTS = grouped(SPACED, 5)
local USAGE_EVENT = event("[]", ',"usage":' .. USAGE .. ',"service_tier":"on_demand"')

local function set_headers(content_type)
  local headers = ngx.header
  headers["content-type"] = content_type
  headers["cache-control"] = "private, max-age=0, no-store, no-cache, must-revalidate"
  headers["vary"] = "Origin"
  headers["x-groq-region"] = "fra"
  headers["x-request-id"] = "req_01m48tqzdve5v8d97j7jgm40as"
  headers["via"] = "1.1 google"
  headers["cf-ray"] = "8f2c0a1b2c3d4e5f-FRA"
  headers["x-ratelimit-limit-requests"] = "500000"
  headers["x-ratelimit-limit-tokens"] = "300000000"
  headers["x-ratelimit-remaining-requests"] = "499999"
  headers["x-ratelimit-remaining-tokens"] = "299999822"
  headers["x-ratelimit-reset-requests"] = "172.8ms"
  headers["x-ratelimit-reset-tokens"] = "35.6ms"
end

local function stream(groups, with_usage)
  set_headers("text/event-stream")
  for number, group in ipairs(groups) do
    if number > 1 then ngx.sleep(PAUSE_SECONDS) end
    ngx.print(group)
    -- A disconnected client ends the stream, as at Groq.
    if not ngx.flush(true) then return end
  end
  ngx.print((with_usage and USAGE_EVENT or "") .. "data: [DONE]\n\n")
end

-- Shared within this process, which is the only one.
local releases = 0

local function slow_stream(with_usage)
  set_headers("text/event-stream")
  local seen = releases
  ngx.print(SPACED[1])
  while releases == seen do
    if not ngx.flush(true) then return end
    ngx.sleep(FAILOVER_SECONDS)
    ngx.print(SPACED[2])
  end
  ngx.print(SPACED[#SPACED], with_usage and USAGE_EVENT or "", "data: [DONE]\n\n")
end

function answers.release()
  releases = releases + 1
  ngx.print("released\n")
end

function answers.chat()
  ngx.req.read_body()
  local body = ngx.req.get_body_data()
  if not body then return ngx.exit(413) end
  if body:find('"stream": ?true') then
    local with_usage = body:find('"include_usage": ?true') ~= nil
    if body:find("slow", 1, true) then return slow_stream(with_usage) end
    local groups = body:find("spaced", 1, true) and SPACED or BURSTS
    return stream(groups, with_usage)
  end
  set_headers("application/json")
  ngx.header["content-length"] = #COMPLETION
  ngx.print(COMPLETION)
end

function answers.models()
  set_headers("application/json")
  local model = '{"id":"' .. MODEL .. '","object":"model","created":1754407957,"owned_by":"OpenAI","active":true,'
    .. '"context_window":131072,"public_apps":null,"max_completion_tokens":65536}'
  if ngx.var.uri ~= "/openai/v1/models" then return ngx.print(model) end
  ngx.print('{"object":"list","data":[' .. model .. ']}\n')
end

return answers
