-- Buckets of the keys of one model; the beginning of every script here (shared_view.py). The rules are those of
-- buckets.py and shares.py.
--
-- KEYS: state (hash), order (sorted set: the accounts by tokens served per weight), waiting (hash), appointments (hash),
-- served (sorted set: `<account> <weight>` by the time until which the account counts as competing).
-- ARGV[1]: JSON. Its `windows` are the lengths of the four windows in seconds, its `limits` the configured limits in
-- the same order, 0 without one. Its `keys` are the names of the Groq keys, by index from 0.
-- Fields of the state: `virtual`, and for each key and window `<name>:<window>:limit`, `:used` and `:at`.
local USABLE, DAILY_SLACK, ACTIVE, STATE_SECONDS = 0.98, 0.05, 1 / 6, 172800
local state_key, order_key, waiting_key, appointments_key, served_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local COUNTS_TOKENS = {false, false, true, true}
local IS_DAILY = {false, true, false, true}

-- Callers choose the names of models. Until Groq reports a limit of one, its keys live for two windows.
local ttl = math.ceil(2 * ask.windows[1])
local state, changed = {}, {}

local function load(field, value)
    state[field] = value
    if string.sub(field, -6) == ':limit' then
        ttl = STATE_SECONDS
    end
end

local function set(field, value)
    load(field, value)
    changed[field] = true
end

local fields = redis.call('HGETALL', state_key)
for i = 1, #fields, 2 do
    load(fields[i], tonumber(fields[i + 1]))
end
for i = 1, #fields, 2 do
    local field = fields[i]
    if string.sub(field, -3) == ':at' and state[field] < now - STATE_SECONDS then -- Of a key that was removed.
        local bucket = string.sub(field, 1, -3)
        for _, name in ipairs({'at', 'used', 'limit'}) do
            redis.call('HDEL', state_key, bucket .. name)
            state[bucket .. name] = nil
        end
    end
end

local function save()
    local values = {}
    for field in pairs(changed) do
        values[#values + 1] = field
        values[#values + 1] = string.format('%.17g', state[field])
    end
    if #values > 0 then
        redis.call('HSET', state_key, unpack(values))
        redis.call('EXPIRE', state_key, ttl)
    end
end

local function field_of(key, window, name)
    return ask.keys[key + 1] .. ':' .. window .. ':' .. name
end

-- The known limit of a window; nil without one.
local function limit_of(key, window)
    local configured = ask.limits[window]
    return configured > 0 and configured or state[field_of(key, window, 'limit')]
end

local function used_of(key, window, limit)
    local used = state[field_of(key, window, 'used')] or 0
    local at_field = field_of(key, window, 'at')
    local at = state[at_field] or now
    if at > now then -- The clock was set back. What is used must not stay until the clock has caught up.
        set(at_field, now)
        at = now
    end
    return math.max(0, used - (now - at) * limit / ask.windows[window])
end

local function set_used(key, window, used)
    set(field_of(key, window, 'used'), math.max(0, used))
    set(field_of(key, window, 'at'), now)
end

local function size_of(window, limit)
    return IS_DAILY[window] and limit or math.max(1, limit * USABLE)
end

local function missing(key, window, limit, amount)
    local size = size_of(window, limit)
    return used_of(key, window, limit) + math.min(amount, size) - size
end

-- The time until a key can be used for a request, and which part of its tightest limit is left.
local function seconds_until(key, tokens)
    local seconds, left = 0, 1
    for window = 1, 4 do
        local limit = limit_of(key, window)
        if limit then
            local over = missing(key, window, limit, COUNTS_TOKENS[window] and tokens or 1)
            if over > 0 then
                seconds = math.max(seconds, over * ask.windows[window] / limit)
            end
            left = math.min(left, 1 - used_of(key, window, limit) / size_of(window, limit))
        end
    end
    return seconds, left
end

-- Count a request, at most the whole of each bucket: others must not wait for more.
local function take(key, tokens)
    for window = 1, 4 do
        local limit = limit_of(key, window)
        if limit then
            local amount = COUNTS_TOKENS[window] and math.min(tokens, size_of(window, limit)) or 1
            set_used(key, window, used_of(key, window, limit) + amount)
        end
    end
end

-- Replace the estimate of a request that was taken by what it has used.
local function settle(key, estimated, used, requests)
    for window = 1, 4 do
        local limit = limit_of(key, window)
        if limit then
            local difference = requests - 1
            if COUNTS_TOKENS[window] then
                difference = used - math.min(estimated, size_of(window, limit))
            end
            set_used(key, window, used_of(key, window, limit) + difference)
        end
    end
end

-- How long requests of a total size take at the rates of all keys together.
local function seconds_for(keys, tokens, requests)
    local rate = 0
    for _, key in ipairs(keys) do
        local seconds = 0
        for window = 1, 4 do
            local limit = limit_of(key, window)
            local amount = COUNTS_TOKENS[window] and tokens or requests
            if limit and (not IS_DAILY[window] or missing(key, window, limit, amount) > 0) then
                seconds = math.max(seconds, amount * ask.windows[window] / limit)
            end
        end
        if seconds <= 0 then
            return 0
        end
        rate = rate + 1 / seconds
    end
    return rate > 0 and 1 / rate or 0
end

-- Entries of waiting accounts by replica: `<account> <replica>` → `<weight> <tokens> <requests> <expiry> <is asking>`.
-- An account asks while its next request could be sent at once if the order and the limits allowed it. Others do not
-- wait for one that does not ask, for example because it has its maximum of concurrent calls.
local function waiting_entries()
    local entries, expired = {}, {}
    local found = redis.call('HGETALL', waiting_key)
    for i = 1, #found, 2 do
        local account, replica = string.match(found[i], '^(.*) (%S+)$')
        local weight, tokens, requests, expiry, asking = string.match(found[i + 1], '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
        -- A later expiry than a new entry's is from before the clock was set back.
        if tonumber(expiry) > now and tonumber(expiry) <= now + ask.lifetime + 0.001 then
            entries[#entries + 1] = {
                account = account, replica = replica, weight = tonumber(weight), tokens = tonumber(tokens),
                requests = tonumber(requests), is_asking = asking == '1',
            }
        else
            expired[#expired + 1] = found[i]
        end
    end
    for first = 1, #expired, 1000 do
        redis.call('HDEL', waiting_key, unpack(expired, first, math.min(first + 999, #expired)))
    end
    return entries
end

local function enter(demand, is_asking)
    local numbers = {demand.weight, demand.waiting_tokens, demand.waiting_requests}
    numbers[4] = string.format('%.3f', now + ask.lifetime)
    numbers[5] = is_asking and 1 or 0
    local entry = table.concat(numbers, ' ')
    redis.call('HSET', waiting_key, demand.account_id .. ' ' .. ask.replica, entry)
    redis.call('EXPIRE', waiting_key, 60)
end

local function leave(account)
    redis.call('HDEL', waiting_key, account .. ' ' .. ask.replica)
end

local function stop_asking(account)
    local field = account .. ' ' .. ask.replica
    local entry = redis.call('HGET', waiting_key, field)
    if entry then
        redis.call('HSET', waiting_key, field, (string.gsub(entry, '%S+$', '0')))
    end
end

-- An account's place in the order: the lowest is served first. One that did not ask cannot have saved up its share.
local function start_of(account, is_asking)
    local finish = tonumber(redis.call('ZSCORE', order_key, account) or 0)
    return is_asking and finish or math.max(finish, state.virtual or 0)
end

local function set_place(account, place)
    redis.call('ZADD', order_key, string.format('%.17g', place), account)
    redis.call('EXPIRE', order_key, ttl)
end
