-- Decide whether a request may wait, or when to send it again (shares.py, `Appointments`).
--
-- ARGV[1], in addition: `demand`, `wait_max`, `wait_min`, `grace`, `replica`, `lifetime`.
-- Returns JSON: [1, expected wait] if it is admitted, otherwise [0, seconds after which to send it again].
local RETRY_SPACING, APPOINTMENTS_MAX = 1.1, 500

local demand = ask.demand
local weights, tokens, requests = {}, demand.waiting_tokens, demand.waiting_requests
local is_asking, is_asking_here, others_ask = false, false, false
for _, entry in ipairs(waiting_entries()) do
    weights[entry.account] = entry.weight
    if entry.is_asking and entry.account == demand.account_id then
        is_asking, is_asking_here = true, is_asking_here or entry.replica == ask.replica
    elseif entry.is_asking then
        others_ask = true
    end
    if entry.account == demand.account_id and entry.replica ~= ask.replica then
        tokens, requests = tokens + entry.tokens, requests + entry.requests
    end
end
-- A later time than the longest one is from before the clock was set back.
local served_until = now + ask.windows[1] * ACTIVE
local served = redis.call('ZRANGE', served_key, string.format('(%.6f', now), string.format('%.6f', served_until), 'BYSCORE')
for _, member in ipairs(served) do
    local account, weight = string.match(member, '^(.*) (%S+)$')
    weights[account] = tonumber(weight)
end
weights[demand.account_id] = demand.weight
local total = 0
for _, weight in pairs(weights) do
    total = total + weight
end
local share = demand.weight / total

local first
for _, key in ipairs(demand.keys) do
    local seconds = seconds_until(key, demand.tokens)
    first = math.min(first or seconds, seconds)
end
first = math.max(first or 0, ask.wait_min)
local owed = 0
if others_ask then
    owed = math.max(0, start_of(demand.account_id, is_asking) - (state.virtual or 0)) * demand.weight
end
local queued = seconds_for(demand.keys, tokens + owed, requests + owed / math.max(1, demand.tokens)) / share
local one = seconds_for(demand.keys, demand.tokens, 1) / share
local wait = first + queued

-- Slots: their start, and the time that was given, which is a whole number of seconds after the refusal.
local stored = redis.call('HGET', appointments_key, demand.account_id)
local slots = {}
for _, slot in ipairs(stored and cjson.decode(stored) or {}) do
    if slot[2] > now - ask.grace then
        slots[#slots + 1] = slot
    end
end
local is_backlogged, due, kept = #slots > 0, 0, nil
for i, slot in ipairs(slots) do
    if slot[2] <= now + ask.wait_max then
        due = due + 1
    end
    if slot[2] <= now and not kept then
        kept = i
    end
end
local is_admitted = wait <= ask.wait_max
if is_admitted and kept then
    table.remove(slots, kept)
elseif is_admitted and is_backlogged then
    is_admitted = queued + due * one <= ask.wait_max / 2
end
local seconds = wait
if is_admitted then
    demand.waiting_tokens = demand.waiting_tokens + demand.tokens
    demand.waiting_requests = demand.waiting_requests + 1
    set_place(demand.account_id, start_of(demand.account_id, is_asking))
    enter(demand, is_asking_here)
else
    local spacing = RETRY_SPACING * one
    local start = now + math.max(first, wait - math.max(0, ask.wait_max) / 2)
    for _, slot in ipairs(slots) do
        if slot[1] >= start + spacing then
            break
        end
        start = math.max(start, slot[1] + spacing)
    end
    seconds = math.max(1, math.ceil(start - now))
    if #slots < APPOINTMENTS_MAX then
        slots[#slots + 1] = {start, now + seconds}
        table.sort(slots, function(a, b) return a[1] < b[1] end)
    end
end
if #slots > 0 then
    local encoded = {}
    for i, slot in ipairs(slots) do
        encoded[i] = string.format('[%.6f,%.6f]', slot[1], slot[2])
    end
    redis.call('HSET', appointments_key, demand.account_id, '[' .. table.concat(encoded, ',') .. ']')
    redis.call('EXPIRE', appointments_key, ttl)
elseif stored then
    redis.call('HDEL', appointments_key, demand.account_id)
end
save()
return '[' .. (is_admitted and 1 or 0) .. ',' .. string.format('%.6f', seconds) .. ']'
