-- Store a response, and drop the account's expired responses and its oldest ones beyond the limits.
--
-- The index is a sorted set: one member `<response id> <bytes>` for each response, with its time in ms, and the member
-- `bytes` with the sum, which sorts first. A response that is not in the index does not exist (get.lua), so that the
-- limits hold even after Redis has evicted an index.
--
-- KEYS: the index, the response, the mark of a deleted account.
-- ARGV: prefix of the account's responses, response id, value, lifetime in ms, most responses, most bytes.
-- Returns 1, or 0 if the account was deleted.
local index, key, deleted = KEYS[1], KEYS[2], KEYS[3]
local prefix, id, value = ARGV[1], ARGV[2], ARGV[3]
local lifetime, count_max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local EXPIRED_MAX, FIRST_TIME = 1000, 1e12

if redis.call('EXISTS', deleted) == 1 then
    return 0
end

local function drop(member)
    local own_id, size = string.match(member, '^(%S+) (%d+)$')
    if redis.call('ZREM', index, member) == 1 then
        redis.call('ZINCRBY', index, -tonumber(size), 'bytes')
        redis.call('UNLINK', prefix .. own_id)
    end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The sum is below the range.
local expired = redis.call('ZRANGE', index, FIRST_TIME, now - lifetime, 'BYSCORE', 'LIMIT', 0, EXPIRED_MAX)
for _, member in ipairs(expired) do
    drop(member)
end

local size = string.len(value)
local previous = redis.call('STRLEN', key)
if previous > 0 then
    drop(id .. ' ' .. previous)
end
redis.call('SET', key, value, 'PX', lifetime)
redis.call('ZADD', index, now, id .. ' ' .. size)
local total = tonumber(redis.call('ZINCRBY', index, size, 'bytes'))
redis.call('PEXPIRE', index, lifetime)
-- One member is the sum. The new response is the last one, and stays.
while redis.call('ZCARD', index) > 2 and (redis.call('ZCARD', index) - 1 > count_max or total > bytes_max) do
    drop(redis.call('ZRANGE', index, 1, 1)[1])
    total = tonumber(redis.call('ZSCORE', index, 'bytes'))
end
return 1
