-- Create a record of an idempotency key, or return the one that there is.
--
-- A record is a field of the account's hash: `<progress> <end of the lease> <time of the claim> <key id> <request id>
-- <fingerprint>`, with times in ms. Field and fingerprint are keyed digests, one pair for each secret: records of all
-- secrets are found, and new ones use the first. A sorted set has the time at which each record expires. Neither key
-- has a time to live, so that a policy such as `volatile-lru` never evicts them: a lost record would let a repeat run.
-- A third set has the last of these times of each account, so that accounts without further claims are removed here.
-- Explicit and implicit keys have a prefix of their own, so that neither takes the other's room.
--
-- KEYS: the account's hash and sorted set, the sorted set of accounts.
-- ARGV: account id, lifetime in ms, lease in ms, most records, request id, key id, id of the request whose record is
--       replaced (empty for none, `*` for any), prefix of the names of keys, then the pairs.
-- Returns progress, request id, key id, time of the claim; or `full` and the ms until a record expires.
local records, expiries, accounts = KEYS[1], KEYS[2], KEYS[3]
local account, lifetime, lease, records_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local request, key, replaced, prefix = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local FIRST_PAIR, EXPIRED_MAX, ACCOUNTS_MAX = 9, 100, 10

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local expired = redis.call('ZRANGE', expiries, '-inf', now, 'BYSCORE', 'LIMIT', 0, EXPIRED_MAX)
if #expired > 0 then
    redis.call('HDEL', records, unpack(expired))
    redis.call('ZREM', expiries, unpack(expired))
end
for _, idle in ipairs(redis.call('ZRANGE', accounts, '-inf', now, 'BYSCORE', 'LIMIT', 0, ACCOUNTS_MAX)) do
    redis.call('UNLINK', prefix .. ':{' .. idle .. '}:records', prefix .. ':{' .. idle .. '}:expiries')
    redis.call('ZREM', accounts, idle)
end

for i = FIRST_PAIR, #ARGV, 2 do
    local field, fingerprint = ARGV[i], ARGV[i + 1]
    local record = redis.call('HGET', records, field)
    if record and tonumber(redis.call('ZSCORE', expiries, field) or 0) > now then
        local progress, lease_end, claimed, key_id, request_id, known =
            string.match(record, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
        if known ~= fingerprint then
            return {'mismatched', request_id, key_id, claimed}
        end
        if request_id == request then
            return {'new', request_id, key_id, claimed}  -- The script runs again, since its connection broke.
        end
        if replaced ~= '*' and (request_id ~= replaced or progress == 'done') then
            -- A request can also end without saying whether it is charged.
            if (progress == 'running' or progress == 'ended') and tonumber(lease_end) <= now then
                progress = 'lapsed'
            end
            return {progress, request_id, key_id, claimed}
        end
        redis.call('HDEL', records, field)
        redis.call('ZREM', expiries, field)
    end
end

if redis.call('ZCARD', expiries) >= records_max then
    local first = redis.call('ZRANGE', expiries, 0, 0, 'WITHSCORES')
    return {'full', string.format('%.0f', math.max(0, tonumber(first[2]) - now))}
end
local function text(number)
    return string.format('%.0f', number)
end
local record = table.concat({'running', text(now + lease), text(now), key, request, ARGV[FIRST_PAIR + 1]}, ' ')
redis.call('HSET', records, ARGV[FIRST_PAIR], record)
redis.call('ZADD', expiries, now + lifetime, ARGV[FIRST_PAIR])
redis.call('ZADD', accounts, 'GT', now + lifetime, account)
return {'new', request, key, text(now)}
