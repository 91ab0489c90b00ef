// Reads on standard input what the simulation made, and verifies it with the providers' own libraries:
//   {environment, apple: {root, bundle, app, notifications: [...], transactions: [...], renewals: [...]}, stripe: {secret, messages: [{body, header}]}, google: {jwks, audience, email, messages: [{body, authorization}]}, now}
// Prints what each said, as JSON, and ends with 1 when one refused something.
import { SignedDataVerifier, Environment } from '@apple/app-store-server-library';
import { createLocalJWKSet, jwtVerify } from 'jose';
import Stripe from 'stripe';

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const given = JSON.parse(Buffer.concat(chunks));
const refused = [];
const types = [];

const environment = given.environment === 'production' ? Environment.PRODUCTION : Environment.SANDBOX;
const apple = new SignedDataVerifier([Buffer.from(given.apple.root, 'base64')], false, environment, given.apple.bundle, given.apple.app);
for (const payload of given.apple.notifications) {
  try {
    const notification = await apple.verifyAndDecodeNotification(payload);
    types.push(notification.notificationType + (notification.subtype ? '/' + notification.subtype : ''));
    const data = notification.data;
    if (data.signedTransactionInfo) await apple.verifyAndDecodeTransaction(data.signedTransactionInfo);
    if (data.signedRenewalInfo) await apple.verifyAndDecodeRenewalInfo(data.signedRenewalInfo);
  } catch (error) {
    refused.push(`apple notification: ${error.status ?? error}`);
  }
}
for (const transaction of given.apple.transactions) {
  try {
    await apple.verifyAndDecodeTransaction(transaction);
  } catch (error) {
    refused.push(`apple transaction: ${error.status ?? error}`);
  }
}

const stripe = new Stripe('sk_test_unused');
for (const { body, header } of given.stripe.messages) {
  try {
    types.push(stripe.webhooks.constructEvent(Buffer.from(body, 'base64'), header, given.stripe.secret, 300, undefined, given.now).type);
  } catch (error) {
    refused.push(`stripe: ${error.message}`);
  }
}

const keys = createLocalJWKSet(given.google.jwks);
for (const { authorization } of given.google.messages) {
  try {
    const { payload } = await jwtVerify(authorization.replace(/^Bearer /, ''), keys, {
      issuer: 'https://accounts.google.com', audience: given.google.audience, algorithms: ['RS256'], currentDate: new Date(given.now * 1000),
    });
    if (payload.email !== given.google.email || payload.email_verified !== true) refused.push('google: another e-mail address');
    types.push('google');
  } catch (error) {
    refused.push(`google: ${error.code}`);
  }
}
console.log(JSON.stringify({ refused, types }));
process.exit(refused.length ? 1 : 0);
