-- Decide whether a request may wait, or when to send it again (shares.py, `Appointments`).
--
-- ARGV[1], in addition: `demand`, `wait_max`, `wait_min`, `grace`, `replica`, `lifetime`.
-- Returns JSON: [1, expected wait] if it is admitted, otherwise [0, seconds after which to send it again].
local RETRY_SPACING, APPOINTMENTS_MAX = 1.1, 500

local demand = ask.demand
local weights, tokens, requests = {}, demand.waiting_tokens, demand.waiting_requests
for _, entry in ipairs(waiting_entries()) do
    weights[entry.account] = entry.weight
    if entry.account == demand.account_id and entry.replica ~= ask.replica then
        tokens, requests = tokens + entry.tokens, requests + entry.requests
    end
end
local is_waiting = weights[demand.account_id] ~= nil
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
local owed = math.max(0, start_of(demand.account_id, is_waiting) - (state.virtual or 0)) * demand.weight
local queued = seconds_for(demand.keys, tokens + owed, requests + owed / math.max(1, demand.tokens)) / share
local one = seconds_for(demand.keys, demand.tokens, 1) / share
local wait = first + queued

local stored = redis.call('HGET', appointments_key, demand.account_id)
local appointments = stored and cjson.decode(stored) or {last = 0, times = {}}
local times = {}
for _, at in ipairs(appointments.times) do
    if at > now - ask.grace then
        times[#times + 1] = at
    end
end

local is_backlogged, due = #times > 0, 0
for _, at in ipairs(times) do
    if at <= now + ask.wait_max then
        due = due + 1
    end
end
local is_admitted = wait <= ask.wait_max
if is_admitted and is_backlogged then
    if times[1] <= now then
        table.remove(times, 1)
    else
        is_admitted = queued + due * one <= ask.wait_max / 2
    end
end
local seconds = wait
if is_admitted then
    demand.waiting_tokens = demand.waiting_tokens + demand.tokens
    demand.waiting_requests = demand.waiting_requests + 1
    set_place(demand.account_id, start_of(demand.account_id, is_waiting))
    enter(demand)
else
    local spacing = RETRY_SPACING * one
    local earliest = now + math.max(first, wait - math.max(0, ask.wait_max) / 2)
    local last = is_backlogged and math.max(earliest, appointments.last + spacing) or earliest
    appointments.last = last
    seconds = math.max(1, math.ceil(last - now))
    if #times < APPOINTMENTS_MAX then
        times[#times + 1] = now + seconds
        table.sort(times)
    end
end
if #times > 0 then
    local encoded = {}
    for i, at in ipairs(times) do
        encoded[i] = string.format('%.6f', at)
    end
    local text = '{"last":' .. string.format('%.6f', appointments.last) .. ',"times":[' .. table.concat(encoded, ',') .. ']}'
    redis.call('HSET', appointments_key, demand.account_id, text)
    redis.call('EXPIRE', appointments_key, STATE_SECONDS)
elseif stored then
    redis.call('HDEL', appointments_key, demand.account_id)
end
return '[' .. (is_admitted and 1 or 0) .. ',' .. string.format('%.6f', seconds) .. ']'
